# One image for the three services; the command chooses: headway submitter, headway notifier or headway worker.
# A release pins this image by its digest: see deploy/release.sh.
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /build
COPY requirements-build.lock ./
RUN --mount=type=cache,target=/root/.cache \
    python -m venv tools && tools/bin/pip install --quiet --require-hashes --requirement requirements-build.lock
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache \
    python -m venv --without-pip /opt/headway \
    && tools/bin/uv pip install --python /opt/headway --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY headway headway
COPY services services
COPY clients/browser clients/browser
RUN tools/bin/hatchling build --target wheel --directory dist \
    && tools/bin/uv pip install --python /opt/headway --no-cache --no-deps dist/*.whl
# Readable for all and writable for root only, whatever the umask of the checkout was, and without uv's lock file. The
# folder `app` is for the jobs of images based on this one.
RUN mkdir /opt/headway/app && rm -f /opt/headway/.lock && chmod -R a+rX,go-w /opt/headway && python -m compileall -q -j 0 /opt/headway

FROM ${PYTHON_IMAGE}
# The root is read-only at run time, so the standard library is compiled here; without its tests.
RUN python -c "import compileall, re, sysconfig; compileall.compile_dir(sysconfig.get_path('stdlib'), quiet=2, \
rx=re.compile('/(test|idlelib|tkinter|lib2to3|ensurepip|site-packages|dist-packages)/'))"
COPY --from=build /opt/headway /opt/headway
# The mount points of the volumes for keys in compose.yaml: a new volume gets the owner of its mount point.
RUN install -d -o 65532 -g 65532 /etc/headway /keys /keys/submitter /keys/notifier /keys/worker
ENV PATH="/opt/headway/bin:$PATH" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /opt/headway/app
USER 65532:65532
STOPSIGNAL SIGTERM
# Submitter and notifier; probes, metrics and, of the notifier, reports.
EXPOSE 8080 8081 9090
ARG VERSION=dev
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ENV HEADWAY_VERSION="${VERSION}" HEADWAY_REVISION="${REVISION}"
LABEL org.opencontainers.image.title="Headway" \
      org.opencontainers.image.description="Background jobs for Python web apps, with a progress bar that survives reloads, crashes and deploys" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.authors="The Headway authors" \
      org.opencontainers.image.url="https://github.com/headway-live/headway" \
      org.opencontainers.image.source="https://github.com/headway-live/headway" \
      org.opencontainers.image.documentation="https://github.com/headway-live/headway/tree/main/docs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
CMD ["headway"]
