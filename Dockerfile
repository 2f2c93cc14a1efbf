# SPDX-License-Identifier: Apache-2.0
# Built by `make image`, with docker, podman or buildah. Any base with Python 3.11 or later
# will do; BUILD_BASE needs the module venv too, and has the same Python at the same path.
ARG BASE=docker.io/library/python:3.13-slim-trixie
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/hermes-nats-sidecar
COPY requirements-build.lock requirements.lock ./
RUN /pip/bin/pip install --require-hashes --requirement requirements-build.lock \
 && /pip/bin/pip wheel --require-hashes --no-build-isolation --wheel-dir /wheels \
      --requirement requirements.lock
COPY . ./
RUN /pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /pip/bin/pip --python /opt/hermes-nats-sidecar/bin/python install \
      --no-index --no-deps /wheels/*.whl

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hermes-nats-sidecar" \
      org.opencontainers.image.description="NATS JetStream message bus for Hermes" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-3.0-or-later" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Slim images of Python bring pip, which nobody needs here.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip \
      /usr/local/lib/python3*/site-packages/pip* \
 && install -d -m 0750 -o 10001 -g 10001 /run/hermes-nats-sidecar /var/lib/hermes-nats-sidecar
COPY --from=build /opt/hermes-nats-sidecar /opt/hermes-nats-sidecar
ENV PATH=/opt/hermes-nats-sidecar/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SIDECAR_UNIX_SOCKET=/run/hermes-nats-sidecar/api.sock \
    STATE_DIRECTORY=/var/lib/hermes-nats-sidecar
USER 10001:10001
# The command starts a Python, which takes half a second, and waits 3 s for an answer.
HEALTHCHECK --interval=30s --timeout=10s --start-period=15s \
  CMD ["hermes-nats-sidecar", "healthcheck"]
ENTRYPOINT ["hermes-nats-sidecar"]
CMD ["serve"]
