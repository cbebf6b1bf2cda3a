# Run this first. In a checkout it finds the library; elsewhere (Colab, a lone file) it fetches it.
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

root = next((p for p in [Path.cwd(), *Path.cwd().parents] if (p / "setr_lib").is_dir()), None)
if root is None:
    root = Path.cwd() / "setr-step-by-step"
    if not root.is_dir():
        clone = ["git", "clone", "-q", "--depth", "1", "REPOSITORY_URL", str(root)]
        subprocess.run(clone, check=True)
needed = ("timm", "safetensors", "accelerate", "anywidget")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *missing], check=True)
os.chdir(root / "book")
if str(root) not in sys.path:
    sys.path.insert(0, str(root))
