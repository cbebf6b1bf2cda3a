"""The explorer itself: what is shown, what a page stores, what a front end is answered.

The ES modules of `js`, joined into one, draw it. In a notebook with a kernel it is an anywidget
that asks Python for every row; in a committed notebook, on the book's page and in `save_html`'s
file the same module reads everything from the page itself.
"""

# L layers, H heads, T tokens, N patches; (row, column) in pixels of the image the network reads

import copy
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import anywidget
import numpy as np
import traitlets
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from torch import Tensor

from ..attention.probes import Probes
from ..files import unknown, whole_file
from ..model import SETR
from ..plots import Palette
from . import given
from .contents import View, jpeg
from .packing import Parcel
from .page import colours, document, fragment, module, picture, still_picture

# Numbers (queries and keys of all layers, heads and tokens) that a page holds: about 8 MB.
PAGE_NUMBERS = 13_000_000
DIRECTIONS = ("from", "to")
WIDGET = "application/vnd.jupyter.widget-view+json"


class AttentionExplorer(anywidget.AnyWidget):
    """Click a pixel: what its patch looks at in every layer and head, and what becomes of it.

    Blocks and heads count from 0, patches from (0, 0); entropy is in nats, distances in pixels.
    Networks are shown as they are now, from copies: a front end may ask while another cell trains,
    and neither may change the other.

    Args:
        model: a SETR of the library, on any of its backbones.
        image: whatever `predict` reads, of any size or mode; or a list of images.
        label: class numbers `(H,W)` of the image's own size, 255 for none; None without; one per
            image if there are several.
        other: a second network with the same patches and classes, shown beside the first with the
            difference of the two.
        names: what to call the network(s) on the screen.
        image_names: what to call the images; None: their files' names, or "image 0", "image 1", ...
        probes, other_probes: linear probes of every block (`load_probes`), for the emergence panel.
        classes, palette: names and colours of the classes; `load_checkpoint` gives those of a file.
        label_classes, label_palette: those of the label, if they are others than the network's (a
            `shapes` scene for a CamVid network): then right and wrong are not judged.
        base: (long side, short side) that images are fitted into, for example `recipe.scale`.
        pixel: (row, column) of the first pixel, in the image as the network reads it.
        block, head: shown first; head is a number, "mean", "max" or "rollout".
        cause_pixels: for how many pixels of a grid the page's causal check is computed; with a
            kernel it is computed for the chosen pixel.
        pool: on a page, cells of `pool` x `pool` patches stand for the patches; None: 1, or more
            where the page would grow beyond about 8 MB.

    Raises:
        ValueError: for networks or labels that do not fit, a network whose numbers are not finite,
            names that are no text, colours that are none, or a pixel outside the image.
    """

    _ipython_display_ = None  # ipywidgets 7 would display the widget alone, without the HTML
    _esm = module()
    data = traitlets.Bytes().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        model: SETR,
        image: Any,
        label: Any = None,
        *,
        other: SETR | None = None,
        names: Sequence[str] = ("network", "other network"),
        image_names: Sequence[str] | None = None,
        probes: Probes | None = None,
        other_probes: Probes | None = None,
        classes: Sequence[str] | None = None,
        palette: Palette | None = None,
        label_classes: Sequence[str] | None = None,
        label_palette: Palette | None = None,
        base: tuple[int, int] | None = None,
        pixel: tuple[int, int] | None = None,
        block: int = -1,
        head: int | str = "mean",
        cause_pixels: int = 8,
        pool: int | None = None,
    ) -> None:
        models = [model] if other is None else [model, other]
        count = given.check_models(models)
        models = [copy.deepcopy(one).eval() for one in models]
        images = list(image) if isinstance(image, list | tuple) else [image]
        labels = list(label) if isinstance(label, list | tuple) else [label] * len(images)
        same = label_classes is None or list(label_classes) == list(classes or ())
        kinds = len(label_classes) if label_classes else count
        self._scenes = given.make_scenes(models[0], images, labels, image_names, kinds, same, base)
        self._names = given.texts(list(names)[: len(models)], len(models), "networks")
        self._classes = given.class_table(classes, palette, count, "classes")
        self._label_classes = (
            self._classes
            if same
            else given.class_table(label_classes, label_palette, kinds, "labels")
        )
        first = given.first_pixel(self._scenes[0].size, pixel)
        self._views = []
        for number, scene in enumerate(self._scenes):
            asked = given.spread_pixels(scene.size, None if number else first, cause_pixels)
            pairs = zip(models, (probes, other_probes))
            self._views.append([View(net, scene, some, asked) for net, some in pairs])
        shown = given.first_map(self._views[0][0].shape, block, head)
        view = {"image": 0, "model": 0, "pixel": list(first), "direction": "from", **shown}
        given.check_pool(pool, self._views[0][0].grid)
        self._pool_wanted = pool
        super().__init__(data=self._pack(stored=False), view=view)
        self.on_msg(self._receive)

    @traitlets.validate("view")
    def _check_view(self, proposal: Any) -> dict[str, Any]:
        """What is shown can be set from Python too: `explorer.view = {**explorer.view, ...}`."""
        view = proposal["value"]
        missing = {"image", "model", "pixel", "direction", "block", "head"} - set(view)
        if missing:
            raise ValueError(f"the view lacks {', '.join(sorted(missing))}: {view}")
        if view["image"] not in range(len(self._scenes)) or (
            view["model"] not in range(len(self._names))
        ):
            raise ValueError(f"there is no image {view['image']} with network {view['model']}")
        given.inside(view["pixel"], self._scenes[view["image"]].size)
        given.first_map(
            self._views[view["image"]][view["model"]].shape, view["block"], view["head"]
        )
        if view["direction"] not in DIRECTIONS:
            raise ValueError(unknown("direction", view["direction"], DIRECTIONS))
        return view

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write the explorer as one file that needs no kernel and no network, whole or not at all.

        Attention is stored within 1/255 of the largest number of every picture. Where it would
        take more than about 8 MB, cells of 2x2, 3x3, ... patches stand for the patches, and the
        page says so.
        """
        page = self._page()
        with whole_file(path) as temporary:
            temporary.write_text(page, encoding="utf-8")

    def __repr__(self) -> str:
        height, width = self._scenes[0].size
        layers, heads, _ = self._views[0][0].shape
        return (
            f"AttentionExplorer({len(self._scenes)} image(s) of {height}x{width}, "
            f"{layers} blocks x {heads} heads, {' and '.join(self._names)})"
        )

    def _repr_mimebundle_(self, **_: Any) -> Any:
        """The HTML that stays in the file; before it, as an output of its own, the live widget.

        In one output front ends would show the widget alone, and in a notebook that is opened
        again its place would be empty: no kernel knows it any more. Colab gets the HTML alone,
        which needs no widget manager. A network too large for a page leaves a still picture;
        `save_html` writes it with larger cells.
        """
        widget = None if "google.colab" in sys.modules else super()._repr_mimebundle_()
        if widget and InteractiveShell.initialized():
            data, metadata = widget
            display({WIDGET: data[WIDGET]}, metadata=metadata, raw=True)
        return {"text/plain": repr(self), "text/html": self._html()}

    def _html(self) -> str:
        if self._pool_wanted is not None or self._pool() == 1:
            return self._fragment()
        return picture(self._still(), self._alt())

    def _fragment(self) -> str:
        return fragment(self._pack(stored=True), self._still(), self._alt(), self._title())

    def _page(self) -> str:
        return document(self._fragment(), self._title())

    def _title(self) -> str:
        return f"Attention of {' and '.join(self._names)}"

    def _pool(self) -> int:
        """Patches per side of a cell of the page: 1 where all of them fit."""
        if self._pool_wanted is not None:
            return self._pool_wanted
        views, pool = [view for views in self._views for view in views], 1
        while pool < max(views[0].grid) and sum(v.numbers(pool) for v in views) > PAGE_NUMBERS:
            pool += 1
        return pool

    def _pack(self, stored: bool) -> bytes:
        """Everything the module draws; with `stored` also the attention and the causal check."""
        parcel = Parcel()
        pool = self._pool() if stored else 1
        images = []
        for scene, views in zip(self._scenes, self._views):
            about: dict[str, Any] = {"name": scene.name, "size": list(scene.size)}
            about |= {"patch": views[0].patch, "grid": list(views[0].grid)}
            about |= {
                "picture": parcel.add(jpeg(scene.pixels())),
                "label": None if scene.label is None else parcel.add(scene.label),
                "judged": scene.label is not None and scene.same_classes,
                "models": [],
            }
            for view in views:
                facts = view.forward(parcel)
                if stored:
                    facts["attention"] = view.attention(parcel, pool)
                    facts["means"] = view.means
                    facts["causes"] = view.causes(parcel)
                    facts["tour"] = view.tour(parcel, pool)
                about["models"].append(facts)
            images.append(about)
            self._forget_all_but(0)
        header = {
            "names": self._names,
            "classes": self._classes,
            "label_classes": self._label_classes,
            "view": self.view if stored else {},
            "images": images,
            **{name: parcel.add(table) for name, table in colours().items()},
        }
        return parcel.pack(header)

    def _still(self) -> bytes:
        view = self._views[0][0]
        number = _patch(view, self.view["pixel"])
        rows = view.rows(number, "from")[:, :, view.prefix :].mean(1)
        layers = sorted({round(share * (len(rows) - 1)) for share in (0, 1 / 3, 2 / 3, 1)})
        maps = [rows[layer].view(view.grid).numpy() for layer in layers]
        titles = [f"block {layer}" for layer in layers]
        return still_picture(view.scene.pixels(), maps, titles, view.patch, number)

    def _alt(self) -> str:
        view = self._views[0][0]
        row, col = divmod(_patch(view, self.view["pixel"]), view.grid[1])
        return (
            f"What the patch in row {row}, column {col} of {view.grid[0]}x{view.grid[1]} looks at: "
            f"mean over the {view.shape[1]} heads of some of the {view.shape[0]} blocks"
        )

    def _receive(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        """A question of the module. Whatever goes wrong is an answer too: the page waits."""
        number = content.get("id") if isinstance(content, dict) else None
        try:
            answer, arrays = self.answer(content)
        except ValueError as error:
            answer, arrays = {"error": str(error)}, []
        except Exception as error:  # a full GPU, a question that nobody can read
            answer, arrays = {"error": f"{type(error).__name__}: {error}"}, []
        self.send({**answer, "id": number}, [array.tobytes() for array in arrays])

    def answer(self, question: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """What the module is told: `ask` is one of `ANSWERS`.

        Returns:
            Plain values, and arrays: float32 `(L,H,T)` rows, `(L,N)` rollout and likeness, `(K)`
            products; uint8 `(H,W)` labels without positions or with patches hidden, and a page.

        Raises:
            ValueError: for a pixel outside the image, or another question.
        """
        number, model, ask = question.get("image", 0), question.get("model", 0), question["ask"]
        if not 0 <= number < len(self._views) or not 0 <= model < len(self._names):
            raise ValueError(f"there is no image {number} with network {model}")
        if ask not in ANSWERS:
            raise ValueError(unknown("question", ask, ANSWERS))
        if ask == "html":
            return {}, [np.frombuffer(self._page().encode(), np.uint8)]
        self._forget_all_but(number)
        found: dict[str, Any] | Tensor | np.ndarray | None
        found = ANSWERS[ask](self._views[number][model], question)
        if isinstance(found, dict):
            labels = found.pop("labels", None)
            return found, [] if labels is None else [labels]
        if isinstance(found, Tensor):
            found = found.float().contiguous().numpy()
        return ({}, []) if found is None else ({"shape": list(found.shape)}, [found])

    def _forget_all_but(self, number: int) -> None:
        """Queries and keys are kept for one image only."""
        for other, views in enumerate(self._views):
            for view in views:
                if other != number:
                    view.forget()


def _patch(view: View, pixel: Sequence[int]) -> int:
    """The number of the patch that holds a pixel."""
    row, col = given.inside(pixel, view.scene.size)
    return row // view.patch * view.grid[1] + col // view.patch


def _direction(question: dict[str, Any]) -> str:
    direction = question.get("direction", "from")
    if direction not in DIRECTIONS:
        raise ValueError(unknown("direction", direction, DIRECTIONS))
    return direction


def _rows(view: View, question: dict[str, Any]) -> Tensor:
    return view.rows(_patch(view, question["pixel"]), _direction(question))


def _rollout(view: View, question: dict[str, Any]) -> Tensor:
    return view.rollout(_patch(view, question["pixel"]), _direction(question))


def _likeness(view: View, question: dict[str, Any]) -> Tensor:
    return view.likeness(_patch(view, question["pixel"]))


def _products(view: View, question: dict[str, Any]) -> Tensor:
    place = given.first_map(view.shape, question["block"], question["head"])
    both = [_patch(view, question[name]) for name in ("pixel", "other")]
    return view.products(place["block"], int(place["head"]), *both)


def _cause(view: View, question: dict[str, Any]) -> dict[str, Any]:
    pixel = given.inside(question["pixel"], view.scene.size)
    found = view.cause([pixel] * 4, int(question["k"]))  # four random draws
    return {**found, "patches": found["patches"].tolist()}


def _without(view: View, question: dict[str, Any]) -> dict[str, Any]:
    return view.without(question["patches"], given.inside(question["pixel"], view.scene.size))


# What the module may ask of one network and one image.
ANSWERS: dict[str, Callable[[View, dict[str, Any]], Any]] = {
    "rows": _rows,
    "rollout": _rollout,
    "means": lambda view, _: {"means": view.means},
    "cause": _cause,
    "likeness": _likeness,
    "products": _products,
    "unplaced": lambda view, _: view.unplaced,
    "without": _without,
    "html": lambda view, _: None,  # of the whole explorer: answered there
}
