#!/usr/bin/env bash
# `make run`: a local cell of 3 masters and 3 Borglets, a service and a batch job in it. Safe to call again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
state=${STATE:-$PWD/.state}
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || step() { printf '\n== %s\n' "$*"; }

step "Starting a local cell (3 masters, 3 Borglets with the native runtime) in $state"
borgmaster dev --detach --directory "$state"
export BORGCFG_PROFILE=$state/cells.yaml

step "borgcfg up examples/hello.bcl   (a production service of 3 tasks, health-checked)"
borgcfg up "$here/hello.bcl"

step "borgcfg up examples/wordcount.bcl --wait-done   (a batch job over examples/data)"
borgcfg up "$here/wordcount.bcl" --wait-done

step "borgcfg status demo/hello"
borgcfg status demo/hello

step "The service's pages"
borgcfg status demo/hello -o json |
    python3 -c 'import json, sys; print(*sorted(p for t in json.load(sys.stdin)["tasks"] for p in t["current"]["ports"].values()))' |
    tr ' ' '\n' | while read -r port; do
    printf 'http://127.0.0.1:%s/  ' "$port"
    python3 -c 'import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=5).read().decode())' "http://127.0.0.1:$port/"
done

step "The result of the batch job: borgcfg logs demo/wordcount | examples/wordcount_reduce.py examples/data/*.txt"
borgcfg logs demo/wordcount 2>/dev/null |
    python3 "$here/wordcount_reduce.py" "$here"/data/*.txt

bin=$(dirname "$(command -v borgcfg)")
step "The cell goes on running. Go on with:"
cat <<TEXT
  export BORGCFG_PROFILE=$BORGCFG_PROFILE PATH=$bin:\$PATH
  borgcfg status                      # the cell; then demo/hello, demo/hello/0
  borgcfg why demo/hello/0            # why a task is where it is
  borgcfg events demo/hello           # what happened to it
  borgcfg logs -f demo/hello/0        # its output
  borgcfg kill demo/hello --yes
  kill -9 \$(python3 -c 'import json; print(json.load(open("$state/pids.json"))["borgmaster-m1"])')   # and look: nothing restarts
  make stop                           # end the cell and its tasks
TEXT
