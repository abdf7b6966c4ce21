"""Models on disk, in Ollama's layout: manifests/<host>/<namespace>/<model>/<tag> and blobs/sha256-<hex>.

A model's digest is the SHA-256 of its manifest, and the manifest's bytes depend on the model alone. `pull` copies from
the library inside the image, as a download would: in parts, resumable, checked, then named.
"""
import datetime
import hashlib
import json
import os
import pathlib
import re
import struct
import threading

ROOT = pathlib.Path(os.environ.get("OLLAMA_MODELS") or pathlib.Path.home() / ".ollama/models")
LIBRARY = pathlib.Path(os.environ.get("OLLAMA_STANDIN_LIBRARY", "/models"))
PART_BYTES = 1 << 20


class Refused(Exception):
    """An answer that is not 200, in Ollama's words."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status, self.message = status, message


def full_name(name):
    if not isinstance(name, str) or not name:
        raise Refused(400, "model is required")
    if ":" not in name.rsplit("/", 1)[-1]:
        name += ":latest"
    plain = name.replace("/", "").replace(":", "").replace("-", "").replace(".", "").replace("_", "")
    if not plain.isalnum() or ".." in name or name.startswith("/"):
        raise Refused(400, "invalid model name")
    return name


HOST = "registry.ollama.ai"
DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")


def manifest_path(name):
    full = full_name(name)
    last = full.rsplit("/", 1)[-1]
    model, tag = full[: len(full) - len(last)] + last.rsplit(":", 1)[0], last.rsplit(":", 1)[1]
    parts = model.split("/")
    folder = {1: [HOST, "library"], 2: [HOST]}.get(len(parts), []) + parts
    return ROOT.joinpath("manifests", *folder, tag)


def blob_path(digest):
    if not DIGEST.fullmatch(digest):
        raise Refused(400, "invalid digest format")
    return ROOT / "blobs" / digest.replace(":", "-")


def put_blob(digest, parts):
    """Takes a blob as it comes; one that is not what it says is not kept. True if it was there already."""
    kept = blob_path(digest)
    if kept.exists():
        return True
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_name(f"{kept.name}-coming-{os.getpid()}-{threading.get_ident()}")
    found = hashlib.sha256()
    try:
        with open(part, "wb") as out:
            for block in parts:
                found.update(block)
                out.write(block)
        if "sha256-" + found.hexdigest() != kept.name:
            raise Refused(400, f"digest mismatch, expected {digest!r}, got 'sha256:{found.hexdigest()}'")
        os.replace(part, kept)
    finally:
        part.unlink(missing_ok=True)
    return False


def copy(source, destination):
    """Gives a model a second name: the manifest's bytes, and so its digest, are the same."""
    raw, _ = read_manifest(source)
    write_whole(manifest_path(destination), raw)


def write_whole(path, raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(raw)
    os.replace(part, path)


def names():
    base = ROOT / "manifests"
    for path in sorted(base.rglob("*")):
        host, *folder = path.relative_to(base).parts
        if path.is_file() and not path.name.endswith(".part") and len(folder) == 3:
            model = "/".join([host, *folder[:2]]).removeprefix(HOST + "/").removeprefix("library/")
            yield f"{model}:{path.name}"


def read_manifest(name):
    try:
        raw = manifest_path(name).read_bytes()
        return raw, json.loads(raw)
    except (OSError, ValueError):
        raise Refused(404, f"model '{name}' not found") from None


def gguf_facts(path):
    """The key/value head of a GGUF file and the number of its parameters."""
    with open(path, "rb") as file:
        def read(form):
            return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]

        def text():
            return file.read(read("Q")).decode("utf-8", "replace")

        def value(kind):
            if kind == 8:
                return text()
            if kind == 9:
                inner, count = read("I"), read("Q")
                return [value(inner) for _ in range(count)]
            return read({0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}[kind])

        if file.read(4) != b"GGUF":
            raise Refused(500, "not a GGUF file")
        read("I")
        tensors, pairs = read("Q"), read("Q")
        facts = {}
        for _ in range(pairs):
            key = text()
            facts[key] = value(read("I"))
        parameters = 0
        for _ in range(tensors):
            text()
            size = 1
            for _ in range(read("I")):
                size *= read("Q")
            parameters += size
            read("I"), read("Q")
        return facts, parameters


def describe(name):
    raw, manifest = read_manifest(name)
    layer = next(item for item in manifest["layers"] if item["mediaType"].endswith(".model"))
    path = blob_path(layer["digest"])
    try:
        facts, parameters = gguf_facts(path)
    except OSError:
        raise Refused(404, f"model '{name}' not found") from None
    family = facts["general.architecture"]
    changed = datetime.datetime.fromtimestamp(manifest_path(name).stat().st_mtime, datetime.timezone.utc)
    return {
        "name": full_name(name), "path": str(path), "facts": facts, "parameters": parameters,
        "embeds": family == "bert", "modified_at": changed.isoformat(),
        "digest": hashlib.sha256(raw).hexdigest(), "size": sum(item["size"] for item in manifest["layers"]),
        "details": {"parent_model": "", "format": "gguf", "family": family, "families": [family],
                    "parameter_size": f"{parameters / 1e6:.2f}M", "quantization_level": "F32",
                    "context_length": facts[f"{family}.context_length"],
                    "embedding_length": facts[f"{family}.embedding_length"]},
    }


def file_digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(PART_BYTES):
            digest.update(part)
    return "sha256:" + digest.hexdigest()


def manifest_bytes(digest, size, config_digest, config_size):
    document = {
        "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": config_digest, "size": config_size},
        "layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size}],
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def pull(name):
    """Yields Ollama's progress lines."""
    name = full_name(name)
    source = LIBRARY / (name.rsplit(":", 1)[0].rsplit("/", 1)[-1] + ".gguf")
    yield {"status": "pulling manifest"}
    if not source.is_file() or name.rsplit(":", 1)[1] != "latest":
        raise Refused(500, "pull model manifest: file does not exist (the Ollama stand-in knows only its own models)")
    digest, size = file_digest(source), source.stat().st_size
    line = {"status": "pulling " + digest[7:19], "digest": digest, "total": size}
    kept = blob_path(digest)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(kept.name + "-partial")
        with open(source, "rb") as src, open(part, "ab") as out:
            done = out.tell()
            src.seek(done)
            while block := src.read(PART_BYTES):
                out.write(block)
                done += len(block)
                yield {**line, "completed": done}
        yield {"status": "verifying sha256 digest"}
        if file_digest(part) != digest:
            part.unlink()
            raise Refused(500, "digest mismatch, file must be downloaded again")
        os.replace(part, kept)
    else:
        yield {**line, "completed": size}
        yield {"status": "verifying sha256 digest"}
    config = b'{"model_format":"gguf"}'
    config_digest = "sha256:" + hashlib.sha256(config).hexdigest()
    write_whole(blob_path(config_digest), config)
    yield {"status": "writing manifest"}
    write_whole(manifest_path(name), manifest_bytes(digest, size, config_digest, len(config)))
    yield {"status": "success"}


def remove(name):
    _, manifest = read_manifest(name)
    manifest_path(name).unlink()
    used = {item["digest"] for other in names() for item in parts(read_manifest(other)[1])}
    for item in parts(manifest):
        if item["digest"] not in used:
            blob_path(item["digest"]).unlink(missing_ok=True)


def parts(manifest):
    return [manifest["config"], *manifest["layers"]]
