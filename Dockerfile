# The two commands anywhere:
#   docker build -t setr . && docker run --rm setr               # make test
#   docker run --rm -v "$PWD/_build:/setr/_build" setr make book
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /setr
COPY requirements.txt ./
RUN python -m venv .venv && .venv/bin/pip install -q --no-cache-dir -r requirements.txt
COPY . .
CMD ["make", "test"]
