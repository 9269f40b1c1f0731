# One image for every role: docker run notifyd --role=persist
# Build:                    docker build -t notifyd:0.1.0 .
#
# BASE is any Debian-like image with `python` 3.11 or later and its `venv`; `--build-arg BASE=...@sha256:...` pins it.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
# First what changes seldom: each package by the hash of its file, with the extras otel and apprise. Neither the
# embedded broker and PostgreSQL nor test tools belong into production.
COPY requirements-build.lock requirements.lock ./
RUN python -m venv /opt/notifyd \
 && /opt/notifyd/bin/pip install --no-compile --require-hashes -r requirements-build.lock \
 && /opt/notifyd/bin/pip install --no-compile --require-hashes --no-build-isolation -r requirements.lock
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY notifyd notifyd
# Compiled here, for at run time nothing can be written.
RUN /opt/notifyd/bin/pip install --no-compile --no-deps --no-build-isolation . \
 && /opt/notifyd/bin/pip uninstall -y pip setuptools \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/notifyd/lib

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="notifyd" \
      org.opencontainers.image.description="Notifications from Kafka to every device of every user" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --system --gid 10001 notifyd \
 && useradd --system --uid 10001 --gid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin notifyd
COPY --from=build /opt/notifyd /opt/notifyd
ENV PATH=/opt/notifyd/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 NOTIFYD_LOG_FORMAT=json
USER 10001:10001
WORKDIR /tmp
# public (ws and api), and health and metrics
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# Exec form: the process is PID 1 and gets the signal itself.
ENTRYPOINT ["notifyd"]
