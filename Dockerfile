FROM python:3.11-slim AS dependencies
ENV PYTHONUNBUFFERED=1
RUN pip install --no-cache-dir uv \
    && useradd --uid 10001 --create-home stillhouse \
    && install -d -o stillhouse -g stillhouse /var/lib/stillhouse
WORKDIR /source
COPY pyproject.toml constraints.txt ./
RUN uv pip install --system --no-cache -c constraints.txt -r pyproject.toml


FROM dependencies AS api
COPY . .
RUN uv pip install --system --no-cache --no-deps .
USER stillhouse
WORKDIR /var/lib/stillhouse
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=5)"]
CMD ["python", "-m", "app"]


FROM dependencies AS worker
# cpu, or a CUDA version as uv knows it: cu130
ARG TORCH_BACKEND=cpu
RUN uv pip install --system --no-cache --torch-backend ${TORCH_BACKEND} \
    -c constraints.txt -r pyproject.toml --extra worker
COPY . .
RUN uv pip install --system --no-cache --no-deps .
USER stillhouse
WORKDIR /var/lib/stillhouse
CMD ["celery", "--app", "worker.celery", "worker", "--pool", "threads", \
    "--without-gossip", "--without-mingle"]
