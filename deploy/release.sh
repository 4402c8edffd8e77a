#!/usr/bin/env bash
# Release the tagged version: packages, bill of materials, checksums, an image for two architectures, and signatures.
#
#   deploy/release.sh [--dry-run] IMAGE      for example registry.example.org/headway
#
# Run it in a clean checkout of the tag v<version>. The files are in dist/ afterwards. A dry run creates them, too, but
# prints the commands that need a registry or sign something.
#
# `make release ARGS=...` runs it with the tools of requirements-release.lock: $PYTHON is their interpreter. A release also
# needs docker with a builder for both architectures, a login to the registry, and cosign, which signs with your OpenID
# Connect identity.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ARCHITECTURES=linux/amd64,linux/arm64
python=${PYTHON:-.venv-release/bin/python}

fail() {
    echo "release: $1" >&2
    exit 1
}

# Run a command, or print it in a dry run.
remotely() {
    if [ "$dry_run" = yes ]; then echo "$*"; else "$@"; fi
}

# Print the digest that a command prints as JSON, or a placeholder in a dry run; fail if it prints something else.
digest() {
    local digest
    if [ "$dry_run" = yes ]; then
        echo "sha256:…"
    elif digest=$("$@") && [[ $digest =~ ^\"(sha256:[0-9a-f]{64})\"$ ]]; then
        echo "${BASH_REMATCH[1]}"
    else
        fail "no digest from: $*"
    fi
}

dry_run=no
if [ "${1:-}" = --dry-run ]; then
    dry_run=yes
    shift
fi
[ $# = 1 ] || fail "usage: deploy/release.sh [--dry-run] IMAGE"
image=$1

# What is released is exactly what the tag names.
version=$("$python" -m hatchling version)
[ -z "$(git status --porcelain)" ] || fail "the checkout has changes"
[ -n "$(git tag --points-at HEAD --list "v$version")" ] || fail "HEAD does not have the tag v$version"
grep -q "^## \[${version//./\\.}\] - [0-9]" CHANGELOG.md || fail "CHANGELOG.md has no section with a date for $version"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) # hatchling and buildx give files this time
export SOURCE_DATE_EPOCH

rm -rf dist
"$python" -m hatchling build --target wheel --target sdist --directory dist
# A lock file has no dependency graph, about which the tool warns; the image's own bill of materials has one.
sed "s/^dynamic = .*/version = \"$version\"/" pyproject.toml |
    "$python" -W ignore::UserWarning -m cyclonedx_py requirements --pyproject /dev/stdin --output-reproducible --output-format JSON \
        --output-file dist/headway.cdx.json requirements.lock
(cd dist && sha256sum headway* >SHA256SUMS)

# Both stages of the Dockerfile start from this image. Its digest is that of the index of all architectures.
base=docker.io/library/$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)
base_digest=$(digest docker buildx imagetools inspect --format '{{json .Manifest.Digest}}' "$base")
remotely docker buildx build --platform "$ARCHITECTURES" --pull --push --sbom=true --provenance=mode=max \
    --build-arg "PYTHON_IMAGE=$base@$base_digest" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD)" \
    --build-arg "CREATED=$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ)" \
    --label "org.opencontainers.image.base.name=$base" \
    --label "org.opencontainers.image.base.digest=$base_digest" \
    --metadata-file dist/image.json --tag "$image:$version" .
image_digest=$(digest sed -n 's/.*"containerimage.digest": \("[^"]*"\).*/\1/p' dist/image.json)

remotely cosign sign --yes "$image@$image_digest"
remotely cosign attest --yes --type cyclonedx --predicate dist/headway.cdx.json "$image@$image_digest"
remotely cosign sign-blob --yes --bundle dist/SHA256SUMS.sigstore.json dist/SHA256SUMS
echo "$image:$version@$image_digest"
