"""Makes the stand-in's two models: the same bytes on every machine, from the vocabulary text and nothing else.

`redforge-standin-embed`: BERT with 384 dimensions, so nearly linear that a text's vector is the sum of its words' random
directions: texts that share telling words are near each other. `redforge-standin-chat`: a byte-level llama with real
token counts and timings whose text means nothing.

No numpy and no GGUF library: their output may change with their version. Weights are sums of random nibbles (exact in
float32), drawn from SHA-256 in counter mode.
Usage: make_models.py VOCABULARY OUTDIR
"""
import array
import hashlib
import pathlib
import re
import struct
import sys

U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
MEAN_POOLING = 1
TOKEN_NORMAL, TOKEN_CONTROL = 1, 3


class Draw:
    """An endless row of roughly normal numbers with standard deviation 1, named by its seed."""

    def __init__(self, seed):
        self.seed, self.block = seed, 0
        # the sum of four nibbles: mean 30, variance 85; 9.25 is near its root and exact in binary
        self.table = [(sum((v >> s) & 15 for s in (0, 4, 8, 12)) - 30) / 9.25 for v in range(65536)]

    def take(self, count, scale):
        scaled = [v * scale for v in self.table]
        raw = bytearray()
        while len(raw) < 2 * count:
            raw += hashlib.shake_256(f"{self.seed}:{self.block}".encode()).digest(1 << 16)
            self.block += 1
        words = struct.unpack(f"<{count}H", raw[: 2 * count])
        return array.array("f", [scaled[w] for w in words])


class Gguf:
    """Writes one GGUF version 3 file: facts, then tensors of float32 (dimensions innermost first)."""

    def __init__(self, architecture, name):
        self.facts, self.tensors = [], []
        self.fact("general.architecture", STRING, architecture)
        self.fact("general.name", STRING, name)
        self.fact("general.file_type", U32, 0)

    @staticmethod
    def text(value):
        raw = value.encode()
        return struct.pack("<Q", len(raw)) + raw

    def value(self, kind, value):
        if kind == STRING:
            return self.text(value)
        return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)

    def fact(self, key, kind, value):
        self.facts.append(self.text(key) + struct.pack("<I", kind) + self.value(kind, value))

    def row(self, key, kind, values):
        body = b"".join(self.value(kind, v) for v in values)
        self.facts.append(self.text(key) + struct.pack("<IIQ", ARRAY, kind, len(values)) + body)

    def tensor(self, name, shape, values):
        raw = array.array("f", values)
        if sys.byteorder == "big":
            raw.byteswap()
        self.tensors.append((name, shape, raw.tobytes()))

    def write(self, path):
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.facts)) + b"".join(self.facts)
        at, body = 0, []
        for name, shape, raw in self.tensors:
            head += self.text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
            head += struct.pack("<IQ", 0, at)
            pad = -len(raw) % 32
            body.append(raw + bytes(pad))
            at += len(raw) + pad
        with open(path, "wb") as out:
            out.write(head + bytes(-len(head) % 32))
            out.writelines(body)


def read_vocabulary(path):
    """The words under [faint] say little about a text, those under [telling] much."""
    sections, current = {"faint": [], "telling": []}, None
    for line in pathlib.Path(path).read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        if match := re.fullmatch(r"\[(\w+)\]", line.strip()):
            current = sections[match[1]]
            continue
        current.extend(line.split())
    return sections["faint"], sections["telling"]


def embed(path, vocabulary):
    width, heads, inner, context = 384, 6, 128, 1024
    faint, telling = read_vocabulary(vocabulary)
    words = list(dict.fromkeys(faint + telling))
    signs = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = set()
    for word in words:
        pieces.update(word[i : i + n] for n in (2, 3) for i in range(len(word) - n + 1))
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces.update(a + b for a in letters + "0123456789" for b in letters + "0123456789")
    pieces = sorted(pieces)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = list(dict.fromkeys(
        special + ["\u2581" + w for w in words] + ["\u2581" + p for p in pieces + signs] + pieces + signs))
    weak = set(special) | {"\u2581" + w for w in faint} | {t for s in signs if not s.isalnum() for t in (s, "\u2581" + s)}

    model = Gguf("bert", "redforge-standin-embed")
    for key, value in (("context_length", context), ("embedding_length", width), ("block_count", 1),
                       ("feed_forward_length", inner), ("attention.head_count", heads), ("pooling_type", MEAN_POOLING)):
        model.fact("bert." + key, U32, value)
    model.fact("bert.attention.layer_norm_epsilon", F32, 1e-12)
    model.fact("bert.attention.causal", BOOL, False)
    model.fact("tokenizer.ggml.model", STRING, "bert")
    model.fact("tokenizer.ggml.pre", STRING, "default")
    model.row("tokenizer.ggml.tokens", STRING, tokens)
    model.row("tokenizer.ggml.token_type", I32, [TOKEN_CONTROL] * 5 + [TOKEN_NORMAL] * (len(tokens) - 5))
    model.fact("tokenizer.ggml.token_type_count", U32, 2)
    for id_, key in enumerate(("padding", "unknown", "bos", "seperator", "mask")):
        model.fact(f"tokenizer.ggml.{key}_token_id", U32, id_)

    draw = Draw("redforge-standin-embed")
    ones, zeros = [1.0] * width, [0.0] * width
    table = draw.take(len(tokens) * width, 1.0)
    # Layer norms would undo a smaller weight. So a weak token carries one large number in dimension 0: the norm shrinks
    # the rest against it, and the last norm multiplies dimension 0 by nought.
    for index, token in enumerate(tokens):
        table[index * width] = 128.0 if token in weak else 0.0
    model.tensor("token_embd.weight", (width, len(tokens)), table)
    model.tensor("position_embd.weight", (width, context), draw.take(context * width, 2 ** -10))
    model.tensor("token_types.weight", (width, 2), zeros * 2)
    model.tensor("token_embd_norm.weight", (width,), ones)
    model.tensor("token_embd_norm.bias", (width,), zeros)
    for name in "qkv":
        model.tensor(f"blk.0.attn_{name}.weight", (width, width), draw.take(width * width, 2 ** -8))
        model.tensor(f"blk.0.attn_{name}.bias", (width,), zeros)
    model.tensor("blk.0.attn_output.weight", (width, width), draw.take(width * width, 2 ** -8))
    model.tensor("blk.0.attn_output.bias", (width,), zeros)
    model.tensor("blk.0.attn_output_norm.weight", (width,), ones)
    model.tensor("blk.0.attn_output_norm.bias", (width,), zeros)
    model.tensor("blk.0.ffn_up.weight", (width, inner), draw.take(width * inner, 2 ** -8))
    model.tensor("blk.0.ffn_up.bias", (inner,), [0.0] * inner)
    model.tensor("blk.0.ffn_down.weight", (inner, width), draw.take(inner * width, 2 ** -8))
    model.tensor("blk.0.ffn_down.bias", (width,), zeros)
    model.tensor("blk.0.layer_output_norm.weight", (width,), [0.0] + ones[1:])
    model.tensor("blk.0.layer_output_norm.bias", (width,), zeros)
    model.write(path)


def chat(path):
    width, layers, heads, inner, context = 128, 2, 4, 256, 2048
    # GPT-2's table of bytes: printable ones stand for themselves, the others for characters from 256 on
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    tokens = [chr(b) if b in printable else chr(next(spare)) for b in range(256)]
    merges = ["t h", "i n", "e r", "a n", "o n", "r e"]
    tokens += [m.replace(" ", "") for m in merges] + ["<|bos|>", "<|eos|>"]
    count = len(tokens)
    model = Gguf("llama", "redforge-standin-chat")
    for key, value in (("context_length", context), ("embedding_length", width), ("block_count", layers),
                       ("feed_forward_length", inner), ("attention.head_count", heads), ("attention.head_count_kv", heads),
                       ("rope.dimension_count", width // heads), ("vocab_size", count)):
        model.fact("llama." + key, U32, value)
    model.fact("llama.attention.layer_norm_rms_epsilon", F32, 2 ** -17)
    model.fact("tokenizer.ggml.model", STRING, "gpt2")
    model.fact("tokenizer.ggml.pre", STRING, "gpt-2")
    model.row("tokenizer.ggml.tokens", STRING, tokens)
    model.row("tokenizer.ggml.merges", STRING, merges)
    model.row("tokenizer.ggml.token_type", I32, [TOKEN_NORMAL] * (count - 2) + [TOKEN_CONTROL] * 2)
    model.fact("tokenizer.ggml.bos_token_id", U32, count - 2)
    model.fact("tokenizer.ggml.eos_token_id", U32, count - 1)
    model.fact("tokenizer.ggml.add_bos_token", BOOL, True)
    model.fact("tokenizer.chat_template", STRING, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    draw, ones = Draw("redforge-standin-chat"), [1.0] * width
    model.tensor("token_embd.weight", (width, count), draw.take(count * width, 1.0))
    model.tensor("output_norm.weight", (width,), ones)
    out = draw.take(count * width, 0.125)
    for byte in [*range(32), *range(127, 256)]:   # say printable characters only
        out[byte * width : (byte + 1) * width] = array.array("f", bytes(4 * width))
    model.tensor("output.weight", (width, count), out)
    for layer in range(layers):
        at = f"blk.{layer}."
        model.tensor(at + "attn_norm.weight", (width,), ones)
        for name in ("q", "k", "v", "output"):
            model.tensor(f"{at}attn_{name}.weight", (width, width), draw.take(width * width, 2 ** -4))
        model.tensor(at + "ffn_norm.weight", (width,), ones)
        model.tensor(at + "ffn_gate.weight", (width, inner), draw.take(width * inner, 2 ** -4))
        model.tensor(at + "ffn_up.weight", (width, inner), draw.take(width * inner, 2 ** -4))
        model.tensor(at + "ffn_down.weight", (inner, width), draw.take(inner * width, 2 ** -4))
    model.write(path)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[2])
    embed(folder / "redforge-standin-embed.gguf", sys.argv[1])
    chat(folder / "redforge-standin-chat.gguf")
