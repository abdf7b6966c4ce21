"""Ollama stand-in: the HTTP API of `ollama serve` for what RedForge uses. It is not Ollama, and it says so."""
import datetime
import http.server
import json
import os
import signal
import sys
import threading
import time

import engine
import shelf

VERSION = "0.0.0-redforge-standin"
MAX_BODY_BYTES = 32 << 20


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat()


def tags(_):
    rows = [shelf.describe(name) for name in shelf.names()]
    keys = ("name", "modified_at", "size", "digest", "details")
    return {"models": [{"model": row["name"], **{key: row[key] for key in keys}} for row in rows]}


def ps(_):
    return {"models": [
        {"name": e["info"]["name"], "model": e["info"]["name"], "size": e["info"]["size"], "digest": e["info"]["digest"],
         "details": e["info"]["details"], "size_vram": 0, "context_length": e["context"],
         "expires_at": datetime.datetime.fromtimestamp(min(e["until"], 4e9), datetime.timezone.utc).isoformat()}
        for e in engine.running()]}


def show(body):
    info = shelf.describe(body.get("model") or body.get("name"))
    facts = {key: value for key, value in info["facts"].items() if not isinstance(value, list)}
    return {"modelfile": f"# Ollama stand-in\nFROM {info['path']}\n", "parameters": "", "template": "{{ .Prompt }}",
            "details": info["details"], "modified_at": info["modified_at"],
            "model_info": {**facts, "general.parameter_count": info["parameters"]},
            "capabilities": ["embedding"] if info["embeds"] else ["completion"]}


def delete(body):
    name = body.get("model") or body.get("name")
    shelf.remove(name)
    engine.forget(name)


def embed(body):
    begun = time.monotonic_ns()
    entry, load_ns = engine.use(body.get("model"), body.get("keep_alive"))
    if not entry["info"]["embeds"]:
        raise shelf.Refused(400, "this model does not support embeddings")
    texts = body.get("input", [])
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise shelf.Refused(400, "invalid input type")
    # Ollama takes one empty text for none: the model is loaded, and that is all.
    rows = [engine.embed_one(entry, text, body.get("truncate", True)) for text in texts if text or len(texts) > 1]
    return {"model": body.get("model"), "embeddings": [vector for vector, _ in rows],
            "total_duration": time.monotonic_ns() - begun, "load_duration": load_ns,
            "prompt_eval_count": sum(count for _, count in rows)}


def embeddings(body):
    answer = embed({**body, "input": body.get("prompt", "")})
    return {"embedding": answer["embeddings"][0]}


def generate(body, chat):
    begun, name = time.monotonic_ns(), body.get("model")
    asked = body.get("messages" if chat else "prompt")
    if not asked and str(body.get("keep_alive")) in ("0", "0s"):
        engine.forget(shelf.describe(name)["name"])
        said = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
        yield {"model": name, "created_at": now(), **said, "done": True, "done_reason": "unload"}
        return
    entry, load_ns = engine.use(name, body.get("keep_alive"))
    if entry["info"]["embeds"]:
        raise shelf.Refused(400, f'"{name}" does not support {"chat" if chat else "generate"}')

    def line(text, **more):
        said = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
        return {"model": name, "created_at": now(), **said, "done": False, **more}

    messages = body.get("messages") if chat else None
    if not (messages if chat else body.get("prompt")):
        yield line("", done=True, done_reason="load")
        return
    for text, facts in engine.generate(entry, body.get("prompt"), messages, body.get("options") or {}):
        if facts is None:
            yield line(text)
        else:
            yield line("", done=True, load_duration=load_ns, total_duration=time.monotonic_ns() - begun, **facts)


def copy(body):
    shelf.copy(body.get("source"), body.get("destination"))


def join(lines):
    """The one answer of `stream: false`."""
    last = dict(lines[-1])
    if "message" in last:
        last["message"] = {"role": "assistant", "content": "".join(row["message"]["content"] for row in lines)}
    elif "response" in last:
        last["response"] = "".join(row["response"] for row in lines)
    return last


ANSWERS = {
    ("GET", "/api/version"): lambda _: {"version": VERSION},
    ("GET", "/api/tags"): tags,
    ("GET", "/api/ps"): ps,
    ("POST", "/api/show"): show,
    ("DELETE", "/api/delete"): delete,
    ("POST", "/api/copy"): copy,
    ("POST", "/api/embed"): embed,
    ("POST", "/api/embeddings"): embeddings,
}
STREAMS = {
    ("POST", "/api/pull"): lambda body: shelf.pull(body.get("model") or body.get("name")),
    ("POST", "/api/generate"): lambda body: generate(body, chat=False),
    ("POST", "/api/chat"): lambda body: generate(body, chat=True),
}


class Door(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "ollama-standin"
    timeout = 120

    def log_message(self, form, *args):
        print("Ollama stand-in:", form % args, file=sys.stderr, flush=True)

    def send(self, status, kind, raw):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def send_json(self, status, value):
        self.send(status, "application/json; charset=utf-8", b"" if value is None else json.dumps(value).encode())

    def send_stream(self, lines, body):
        if body.get("stream") is False:
            self.send_json(200, join(list(lines)))
            return
        first = next(lines)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def put(line):
            raw = json.dumps(line).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
            self.wfile.flush()

        try:
            put(first)
            for line in lines:
                put(line)
        except shelf.Refused as refused:
            put({"error": refused.message})
        self.wfile.write(b"0\r\n\r\n")

    def read_body(self):
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            raise shelf.Refused(413, "request body too large")
        try:
            body = json.loads(self.rfile.read(length) or b"{}")
        except ValueError:
            raise shelf.Refused(400, "invalid JSON") from None
        if not isinstance(body, dict):
            raise shelf.Refused(400, "invalid JSON")
        return body

    def blob(self, digest):
        """HEAD: is it there? POST: takes it, however large it is."""
        if self.command == "HEAD":
            self.send(200 if shelf.blob_path(digest).exists() else 404, "text/plain; charset=utf-8", b"")
            return
        left = int(self.headers.get("Content-Length") or 0)

        def parts():
            nonlocal left
            while left > 0:
                block = self.rfile.read(min(left, shelf.PART_BYTES))
                if not block:
                    raise shelf.Refused(400, "unexpected EOF")
                left -= len(block)
                yield block

        try:
            there = shelf.put_blob(digest, parts())
        finally:
            # what is left of the body would be taken for the next request
            self.close_connection = self.close_connection or left > 0
        self.send_json(200 if there else 201, None)

    def answer(self):
        asked = ("GET" if self.command == "HEAD" else self.command, self.path.split("?")[0])
        try:
            if asked[1].startswith("/api/blobs/") and self.command in ("HEAD", "POST"):
                self.blob(asked[1].removeprefix("/api/blobs/"))
                return
            body = self.read_body()
            if asked == ("GET", "/"):
                self.send(200, "text/plain; charset=utf-8", b"Ollama is running (Ollama stand-in)")
            elif asked in ANSWERS:
                self.send_json(200, ANSWERS[asked](body))
            elif asked in STREAMS:
                self.send_stream(STREAMS[asked](body), body)
            else:
                self.send(404, "text/plain; charset=utf-8", b"404 page not found")
        except shelf.Refused as refused:
            self.send_json(refused.status, {"error": refused.message})
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_DELETE = answer


def main():
    address = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").split("://")[-1]
    host, _, port = address.rpartition(":") if ":" in address else (address, "", "11434")
    door = http.server.ThreadingHTTPServer((host, int(port)), Door)
    door.daemon_threads = True
    # llama.cpp's threads would delay an orderly exit; nothing here needs one: files are renamed whole
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    threading.Thread(target=engine.unload_idle, daemon=True).start()
    print(f"Ollama stand-in (llama.cpp, not Ollama) on {host}:{port}, models in {shelf.ROOT}", file=sys.stderr, flush=True)
    door.serve_forever()


if __name__ == "__main__":
    main()
