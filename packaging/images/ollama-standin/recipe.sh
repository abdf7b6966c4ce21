# Ollama stand-in: Ollama's HTTP API and on-disk layout over llama.cpp (PyPI's xllamacpp), with two tiny made models.
# It is not Ollama, and its label, log and version say so. The models are the same bytes on every machine.
REF=redforge.local/ollama-standin:1
describe() { echo "Ollama stand-in: llama.cpp from PyPI, Python from Debian, made models"; }
fill() {
  base
  debs libc6 libgcc-s1 gcc-12-base libstdc++6 libgomp1 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib \
    libexpat1 zlib1g libffi8 libuuid1 libbz2-1.0 liblzma5 libssl3
  slim
  rm -rf "$ROOT"/usr/lib/python3.11/{test,idlelib,tkinter,ensurepip,lib2to3,distutils}
  local app="$ROOT/opt/standin"
  mkdir -p "$app" "$ROOT/models" "$ROOT/root/.ollama"
  python3 -m zipfile -e "$(wheel xllamacpp 2026.10.11549 --python-version 3.11)" "$app"
  cp "$here"/ollama-standin/server/*.py "$app/"
  progress "ollama-standin: making the models"
  python3 "$here/ollama-standin/make_models.py" "$here/ollama-standin/vocabulary.txt" "$ROOT/models"
  local digest wanted
  wanted=$(cat "$here/ollama-standin/models.sha256")
  digest=$(cd "$ROOT/models" && sha256sum ./*.gguf)
  [ "$digest" = "$wanted" ] || give_up "the made models differ from models.sha256: $digest"
  printf '#!/bin/sh\n[ "$1" = serve ] || { echo "Ollama stand-in: only \\"serve\\" is here" >&2; exit 2; }\nexec /usr/bin/python3.11 -u /opt/standin/server.py\n' >"$ROOT/bin/ollama"
  chmod 755 "$ROOT/bin/ollama" "$ROOT/root"
  user ollama 1000 ollama 1000 /root
}
pack() { pack_root 1000:1000 root; }
CHANGES=(-c 'LABEL io.redforge.standin="Ollama stand-in (llama.cpp with tiny made models), not Ollama"'
  -c 'ENV OLLAMA_HOST=0.0.0.0:11434 HOME=/root PATH=/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/standin PYTHONDONTWRITEBYTECODE=1'
  -c 'EXPOSE 11434' -c 'VOLUME /root/.ollama' -c 'USER 1000:1000' -c 'WORKDIR /root'
  -c 'ENTRYPOINT ["/bin/ollama"]' -c 'CMD ["serve"]')
