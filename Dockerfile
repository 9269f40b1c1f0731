# One image for every role: docker run notifyd --role=persist
# Build:                    docker build -t notifyd:0.1.0 .

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_CONSTRAINT=/src/constraints.txt
RUN python -m venv /opt/notifyd
COPY constraints.txt pyproject.toml setup.cfg README.md LICENSE ./
COPY notifyd notifyd
# No extra: neither embedded broker and PostgreSQL nor test tools belong into production.
RUN /opt/notifyd/bin/pip install . && /opt/notifyd/bin/pip uninstall -y pip setuptools

FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 10001 notifyd \
 && useradd --system --uid 10001 --gid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin notifyd
COPY --from=build /opt/notifyd /opt/notifyd
ENV PATH=/opt/notifyd/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 NOTIFYD_LOG_FORMAT=json
USER 10001:10001
WORKDIR /tmp
# public (ws), and health and metrics
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# Exec form: the process is PID 1 and gets the signal itself.
ENTRYPOINT ["notifyd"]
