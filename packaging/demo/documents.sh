# Sourced. The documents: which files of DOCS are text that the flow takes, under ids that the flow takes.
LARGEST_KB=256

# sort_documents   splits the text files of DOCS into $STATE/docs/{before,during}; says which files it leaves out, and why
sort_documents() {
  local file name why taken=0 left=0 halves=(before during)
  rm -rf "$STATE/docs"; mkdir -p "$STATE/docs/before" "$STATE/docs/during"
  [ -d "$DOCS" ] || fail "DOCS=$DOCS is no folder" "DOCS=folder-with-text-files make demo"
  [ -r "$DOCS" ] && [ -x "$DOCS" ] || fail "DOCS=$DOCS may not be read by $(id -un)" "DOCS=folder-with-text-files make demo"
  for file in "$DOCS"/*; do
    [ -f "$file" ] || continue
    if why=$(unfit "$file"); then
      say "  left out: '$(basename "$file" | tr -d '[:cntrl:]')' $why"
      left=$((left + 1))
      continue
    fi
    name=$(id_for "$file")
    [ ! -e "$STATE/docs/before/$name.txt" ] && [ ! -e "$STATE/docs/during/$name.txt" ] || name+=-$(mark_of "$(basename "$file")")
    cp -- "$file" "$STATE/docs/${halves[taken % 2]}/$name.txt"
    taken=$((taken + 1))
  done
  DOCUMENTS_LEFT_OUT=$left
  [ $taken -ge 2 ] || fail "DOCS=$DOCS holds $([ $taken = 1 ] && echo 'only one' || echo no) text document$([ $left = 0 ] || echo ", and $left file(s) that were left out")" \
    "the demo needs at least two text files (UTF-8, up to $LARGEST_KB KB each): half before the cut, half during it"
  say "  $taken documents$([ $left = 0 ] || echo ", $left left out")"
}
unfit() { # FILE   says why the flow could not take it; fails if it can
  local kb bytes
  [ -r "$1" ] || { echo "may not be read by $(id -un)"; return; }
  bytes=$(stat -c %s -- "$1")
  kb=$(((bytes + 1023) / 1024))
  if [ $kb -gt $LARGEST_KB ]; then echo "has $kb KB, more than $LARGEST_KB KB"; return; fi
  if ! iconv -f UTF-8 -t UTF-8 -- "$1" >/dev/null 2>&1 || [ "$(tr -d '\000' <"$1" | wc -c)" != "$bytes" ]; then echo "is no UTF-8 text"; return; fi
  LC_ALL=C grep -q '[^[:space:]]' -- "$1" || { echo "is empty"; return; }
  return 1
}
# id_for FILE   letters, digits, '.', '_' and '-', at most 80; a name that had to be changed bears a mark of the whole name
id_for() {
  local whole stem clean
  whole=$(basename -- "$1") stem=${whole%.*}
  [ -n "$stem" ] || stem=$whole
  clean=$(LC_ALL=C tr -c 'A-Za-z0-9._\n-' '-' <<<"$stem" | tr '\n' '-' | LC_ALL=C sed -E 's/-+/-/g; s/^[-.]+//; s/-+$//' | cut -c1-70)
  if [ "$clean" = "$stem" ]; then echo "$clean"; else echo "${clean:-document}-$(mark_of "$whole")"; fi
}
mark_of() { printf %s "$1" | sha256sum | cut -c1-6; }
