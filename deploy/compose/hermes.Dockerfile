# SPDX-License-Identifier: Apache-2.0
# Hermes with the plugins of the sidecar. The build context is a checkout of Hermes:
#   docker build --tag hermes --file hermes.Dockerfile /path/to/Hermes
# If a source or target plugin needs more packages, its folder has a requirements.txt:
# install it here too.
ARG BASE=docker.io/library/python:3.13-slim-trixie
ARG BUILD_BASE=${BASE}
ARG SIDECAR=hermes-nats-sidecar

FROM ${SIDECAR} AS plugins
USER 0
RUN mkdir /plugins && hermes-nats-sidecar install-plugins /plugins

FROM ${BUILD_BASE} AS build
COPY requirements.txt ./
RUN python3 -m venv /opt/hermes-venv \
 && /opt/hermes-venv/bin/pip install --no-cache-dir --requirement requirements.txt
COPY . /opt/hermes
# Readable by its user, whatever umask the checkout was made with.
RUN chmod -R go+rX /opt/hermes

FROM ${BASE}
COPY --from=build /opt/hermes-venv /opt/hermes-venv
COPY --from=build /opt/hermes /opt/hermes
COPY --from=plugins /plugins /opt/hermes/plugins
# The group of the sidecar's socket.
RUN install -d -m 0700 -o 10002 -g 10001 /var/lib/hermes /var/lib/campus
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /etc/hermes
USER 10002:10001
ENTRYPOINT ["/opt/hermes-venv/bin/python", "/opt/hermes/hermes.py"]
