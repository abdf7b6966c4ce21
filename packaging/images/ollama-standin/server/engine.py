"""Loaded models: llama.cpp does the inference. Knows nothing of HTTP."""
import json
import os
import queue
import re
import threading
import time

import shelf
import xllamacpp

THREADS = int(os.environ.get("OLLAMA_NUM_THREAD", "2"))
KEEP_S = 300.0
FOREVER = 4e9
CHAT_CONTEXT = 2048
# Tokens of context that were asked for; 0 = the model's own, or what is small enough here
CONTEXT = int(os.environ.get("OLLAMA_CONTEXT_LENGTH") or 0)

_loaded = {}
_lock = threading.RLock()


def seconds(value, default=None):
    """Ollama's keep_alive: seconds, or a text such as 5m; negative means for ever."""
    if value is None or value == "":
        return KEEP_S if default is None else default
    if isinstance(value, str):
        match = re.fullmatch(r"(-?\d+(?:\.\d+)?)(ms|s|m|h)?", value.strip())
        if not match:
            raise shelf.Refused(400, f"invalid keep_alive: {value}")
        value = float(match[1]) * {"ms": 0.001, "s": 1, None: 1, "m": 60, "h": 3600}[match[2]]
    return FOREVER if value < 0 else float(value)


DEFAULT_KEEP_S = seconds(os.environ.get("OLLAMA_KEEP_ALIVE"), KEEP_S)


def use(name, keep_alive=None):
    """The loaded model and how long loading took (ns)."""
    with _lock:
        info = shelf.describe(name)
        begun = time.monotonic_ns()
        entry = _loaded.get(info["name"])
        if entry is None or entry["info"]["digest"] != info["digest"]:
            params = xllamacpp.CommonParams()
            params.model.path = info["path"]
            params.hostnames, params.port = ["127.0.0.1"], 0
            params.n_parallel, params.warmup, params.verbosity = 1, False, 0
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
            own = info["details"]["context_length"]
            params.n_ctx = min(CONTEXT or own, own) if info["embeds"] else CONTEXT or CHAT_CONTEXT
            if info["embeds"]:
                params.embedding = True
                params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
                params.n_batch = params.n_ubatch = params.n_ctx
            entry = {"server": xllamacpp.Server(params), "info": info, "context": params.n_ctx}
            _loaded[info["name"]] = entry
        entry["until"] = time.time() + seconds(keep_alive, DEFAULT_KEEP_S)
        return entry, time.monotonic_ns() - begun


def forget(name):
    with _lock:
        _loaded.pop(shelf.full_name(name), None)


def running():
    with _lock:
        return list(_loaded.values())


def unload_idle():
    while True:
        time.sleep(1)
        with _lock:
            for name in [name for name, entry in _loaded.items() if entry["until"] < time.time()]:
                del _loaded[name]


def _as_json(answer):
    return json.loads(answer) if isinstance(answer, str) else answer


def embed_one(entry, text, truncate):
    """One text's vector and its token count; a text over the context is cut, as `truncate` says."""
    while True:
        answer = _as_json(entry["server"].handle_embeddings({"input": text, "model": entry["info"]["name"]}))
        if "data" in answer:
            return answer["data"][0]["embedding"], answer["usage"]["prompt_tokens"]
        message = str(answer.get("error", {}).get("message", answer))
        long = re.search(r"input \((\d+) tokens\) is too large", message)
        if not long:
            raise shelf.Refused(500, message)
        if not truncate:
            raise shelf.Refused(400, "the input length exceeds the context length")
        text = text[: max(1, len(text) * entry["context"] * 95 // (int(long[1]) * 100))]


def generate(entry, prompt, messages, options):
    """Yields (text, None) and at last (None, facts)."""
    ask = {"n_predict": int(options.get("num_predict", 64)), "temperature": float(options.get("temperature", 0.8)),
           "seed": int(options.get("seed", 0)), "stop": options.get("stop") or [], "stream": True}
    if messages is not None:
        ask["messages"], ask["max_tokens"] = messages, ask["n_predict"]
        run = entry["server"].handle_chat_completions
    else:
        ask["prompt"] = prompt
        run = entry["server"].handle_completions
    out = queue.Queue()

    def work():
        try:
            run(ask, out.put)
        except Exception as error:  # noqa: BLE001 - whatever llama.cpp says goes to the caller
            out.put(error)
        out.put(None)

    threading.Thread(target=work, daemon=True).start()
    timings, reason = {}, "stop"
    while (item := out.get()) is not None:
        if isinstance(item, Exception):
            raise shelf.Refused(500, str(item))
        for chunk in item if isinstance(item, list) else [item]:
            chunk = _as_json(chunk)
            if "error" in chunk:
                raise shelf.Refused(500, str(chunk["error"]))
            timings = chunk.get("timings") or timings
            choice = (chunk.get("choices") or [{}])[0]
            reason = choice.get("finish_reason") or chunk.get("stop_type") or reason
            text = (choice["delta"].get("content") if "delta" in choice else choice.get("text")) or chunk.get("content")
            if text:
                yield text, None
    yield None, {
        "done_reason": "length" if reason in ("length", "limit") else "stop",
        "prompt_eval_count": timings.get("prompt_n", 0) + timings.get("cache_n", 0),
        "prompt_eval_duration": int(timings.get("prompt_ms", 0) * 1e6),
        "eval_count": timings.get("predicted_n", 0), "eval_duration": int(timings.get("predicted_ms", 0) * 1e6)}
