# The pipeline with all dependencies. Mount a clone, so that git and DVC can use it.
#   docker build -f deploy/train.Dockerfile -t albef-train .
#   docker run --gpus all --shm-size 8g -v $PWD:/clone -u $(id -u):$(id -g) albef-train run
ARG BASE=python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*
WORKDIR /albef
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY albef albef
ARG EXTRAS=pipeline,s3
RUN pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"
# Use the clone's code instead of the installed one, and let git work in another user's folder.
ENV PYTHONPATH=/clone HOME=/tmp XDG_CACHE_HOME=/clone/.cache
RUN git config --system --add safe.directory /clone
WORKDIR /clone
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "albef.cli"]
CMD ["run"]
