# Server for exported models, without torch and the pipeline.
#   docker build -f deploy/serve.Dockerfile -t albef-serve .
#   docker run -p 8080:8080 -e ALBEF_TOKENS=... -v $PWD/products/exports/retrieval:/export:ro albef-serve
# With a GPU, add --build-arg RUNTIME=gpu, a CUDA and cuDNN runtime image as BASE, and --gpus all.
ARG BASE=python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
FROM ${BASE}
ARG RUNTIME=cpu
WORKDIR /albef
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY albef albef
RUN pip install --no-cache-dir -c constraints.txt ".[serving,${RUNTIME}]" \
 && useradd --create-home --uid 10001 albef \
 && install -d -o albef /indexes
USER albef
WORKDIR /home/albef
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"
ENTRYPOINT ["albef", "serve", "/export", "--host", "0.0.0.0", "--indexes", "/indexes", "--drain", "5"]
