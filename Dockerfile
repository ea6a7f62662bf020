# One instance of reflex-engine, or (CMD control ...) its control API:
#   docker run -v data:/data -e REFLEX_CONFIG="$(cat reflex.yaml)" -e SHOP_DB_PASSWORD -p 8080:8080 IMAGE
# The configuration is REFLEX_CONFIG: a path, or the YAML or JSON itself; secrets are in variables that it names. It says
#   http: {host: 0.0.0.0, port: 8080, token: ...}  and  replica: {path: /data/NAME.duckdb}
# Without the volume a new container builds the replica again.

FROM python:3.11.14-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/reflex
WORKDIR /src
COPY . .
# Wheels only, of known versions: nothing is compiled, so nothing is missing at run time. The one pure Python source
# distribution among them is named.
RUN /opt/reflex/bin/pip install --quiet --only-binary :all: --no-binary mysql-replication \
        --constraint deploy/constraints.txt '.[aws]' \
    && /opt/reflex/bin/python -c "import psycopg, pymssql, pymysql, pymysqlreplication, duckdb, boto3" \
    && find /opt/reflex -type d -name __pycache__ -prune -exec rm -rf {} +

FROM python:3.11.14-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin reflex \
    && install -d -o reflex -g reflex -m 0750 /data
COPY --from=build /opt/reflex /opt/reflex
ENV PATH=/opt/reflex/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 REFLEX_PORT=8080
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
# The process is alive; whether it serves yet is /readyz, whether it is well /health. The port is http.port.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['REFLEX_PORT']}/livez\", timeout=4)"]
# Reading stops, what was read is committed and confirmed, and the process ends with 0, within ten seconds.
STOPSIGNAL SIGTERM
ENTRYPOINT ["reflex-engine"]
CMD ["run"]
