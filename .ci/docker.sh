#!/usr/bin/env bash
# Owns a private Docker Engine for tests and CI: start | stop | status.
#   eval "$(.ci/docker.sh start)"   sets DOCKER_HOST
# All it makes lies under $BORG_DOCKER_DIR (default /var/tmp/borg-docker) and in cgroups named after that
# directory. It has no bridge and no iptables rules (tasks use the machine's network), and never touches
# /var/run/docker.sock. "stop" ends what "start" started, by pid, and removes the directory.
set -euo pipefail

dir=${BORG_DOCKER_DIR:-/var/tmp/borg-docker}
dir=$(realpath -m "$dir")
socket=$dir/docker.sock
pidfile=$dir/pid
cgroup=borg-docker-$(printf %s "$dir" | cksum | cut -d' ' -f1)
image=borg-test:local
wait_s=60

say() { echo "docker.sh: $*" >&2; }
fail() { say "$@"; exit 1; }

# The package's client, also when another "docker" comes first in PATH; no call waits for ever.
docker() {
    local client
    client=$(PATH=/usr/bin:/usr/sbin:$PATH type -P docker) || return 1
    timeout -k 2 "${docker_wait_s:-30}" "$client" -H "unix://$socket" "$@"
}
answers() { docker_wait_s=5 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# runs PID MARK: whether PID lives and its command line has MARK, so that a recycled pid is never taken for ours.
runs() {
    [ -n "${1:-}" ] && [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qF -- "$2"
}
pid_in() { [ -s "$1" ] && cat "$1" || true; }

# end PID MARK SECONDS: SIGTERM, then SIGKILL, and wait until it is gone.
end() {
    local n
    runs "$1" "$2" || return 0
    kill -TERM "$1" 2>/dev/null || true
    for ((n = 0; n < $3 * 10; n++)); do runs "$1" "$2" || return 0; sleep 0.1; done
    say "pid $1 did not end in $3 s: SIGKILL"
    kill -KILL "$1" 2>/dev/null || true
    for ((n = 0; n < 50; n++)); do runs "$1" "$2" || return 0; sleep 0.1; done
}

install_packages() {
    local wanted=()
    type -P dockerd >/dev/null || wanted+=(docker.io)
    type -P iptables >/dev/null || [ -x /usr/sbin/iptables ] || wanted+=(iptables)
    is_static /bin/busybox || wanted+=(busybox-static)
    type -P docker-init >/dev/null || wanted+=(tini)
    [ ${#wanted[@]} -eq 0 ] && return 0
    say "installing ${wanted[*]}"
    local policy=/usr/sbin/policy-rc.d
    [ -e "$policy" ] && policy=
    # packages must not start an engine of the system: ours is private
    [ -z "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"; }
    local ok=0
    { apt-get -q update &&
        DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${wanted[@]}"; } >&2 || ok=$?
    [ -z "$policy" ] || rm -f "$policy"
    [ "$ok" = 0 ] || fail "could not install ${wanted[*]}"
}
is_static() { [ -x "$1" ] && ! ldd "$1" >/dev/null 2>&1; }

write_config() {
    mkdir -p "$dir/data" "$dir/exec"
    cat >"$dir/daemon.json" <<JSON
{"data-root": "$dir/data", "exec-root": "$dir/exec", "pidfile": "$pidfile", "hosts": ["unix://$socket"],
 "live-restore": true, "cgroup-parent": "/$cgroup", "shutdown-timeout": 5,
 "bridge": "none", "iptables": false, "ip-forward": false, "ip-masq": false,
 "max-concurrent-downloads": 2, "storage-driver": "${BORG_DOCKER_STORAGE:-overlay2}"}
JSON
}

launch() {
    local n pid
    pid=$(pid_in "$pidfile")
    if runs "$pid" "$dir/daemon.json"; then
        for ((n = 0; n < wait_s * 5; n++)); do answers && return 0; sleep 0.2; done
        fail "dockerd (pid $pid) runs but does not answer on $socket"
    fi
    rm -f "$pidfile" "$socket" # stale: of a dockerd that was killed
    pid=$(pid_in "$dir/exec/containerd/containerd.pid")
    runs "$pid" "$dir/exec/containerd" || rm -f "$dir/exec/containerd/containerd.pid"
    # its own session, no file of ours kept open: it must outlive this script and whoever reads its output
    PATH=/usr/bin:/usr/sbin:/bin:/sbin:$PATH setsid dockerd --config-file "$dir/daemon.json" \
        >>"$dir/log" 2>&1 </dev/null &
    pid=$!
    for ((n = 0; n < wait_s * 5; n++)); do
        answers && return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.2
    done
    tail -n 20 "$dir/log" >&2 || true
    fail "dockerd does not answer on $socket; its log is $dir/log"
}

# An image of busybox with a link for each of its programs: enough to run sh, sleep, nc, httpd ... offline.
make_image() {
    docker image inspect "$image" >/dev/null 2>&1 && return 0
    local root applet
    root=$(mktemp -d "$dir/image.XXXXXX")
    mkdir -p "$root"/{bin,sbin,usr,tmp,etc,proc,sys,dev,root,var/tmp}
    chmod 1777 "$root/tmp" "$root/var/tmp"
    ln -s ../bin "$root/usr/bin"; ln -s ../sbin "$root/usr/sbin"
    cp /bin/busybox "$root/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    tar -C "$root" -c . | docker import - "$image" >/dev/null
    rm -rf "$root"
}

start() {
    [ "$(id -u)" = 0 ] || fail "needs root to run a Docker Engine"
    mkdir -p "$dir"
    exec 9>"$dir/lock"
    flock -w 120 9 || fail "another docker.sh is at work in $dir"
    install_packages
    write_config
    launch 9>&-
    make_image
    echo "export DOCKER_HOST=unix://$socket"
}

# Containers outlive dockerd (live-restore): remove them while it can, else end their processes ourselves.
end_containers() {
    local left pid
    if answers; then
        left=$(docker ps -aq)
        # shellcheck disable=SC2086  # ids, one word each
        [ -z "$left" ] || docker_wait_s=120 docker rm -f -v $left >/dev/null || true
    fi
    for pid in $(cat /sys/fs/cgroup/{pids/,unified/,}"$cgroup"/*/cgroup.procs 2>/dev/null | sort -u); do
        kill -KILL "$pid" 2>/dev/null || true
    done
}
shims() { pgrep -f -- "containerd-shim.* -address $dir/exec/containerd/containerd.sock" || true; }

remove_leftovers() {
    local path n
    for path in $(awk -v d="$dir/" 'index($5, d) == 1 {print $5}' /proc/self/mountinfo | sort -r); do
        umount -l "$path" || true
    done
    # the kernel lets go of a dead container's cgroup with a delay
    for ((n = 0; n < 50; n++)); do
        find /sys/fs/cgroup -depth -type d \( -name "$cgroup" -o -path "*/$cgroup/*" \) -exec rmdir {} + 2>/dev/null || true
        [ -z "$(find /sys/fs/cgroup -type d -name "$cgroup" 2>/dev/null)" ] && break
        sleep 0.1
    done
    rm -rf --one-file-system "$dir"
}

stop() {
    local pid
    [ -d "$dir" ] || return 0
    exec 9>"$dir/lock"
    flock -w 120 9 || fail "another docker.sh is at work in $dir"
    pid=$(pid_in "$pidfile")
    kill -CONT "$pid" 2>/dev/null || true # a test may have left it stopped
    end_containers
    end "$pid" "$dir/daemon.json" 20
    end "$(pid_in "$dir/exec/containerd/containerd.pid")" "$dir/exec/containerd" 10
    for pid in $(shims); do end "$pid" "$dir/exec/containerd" 5; done
    remove_leftovers
}

status() {
    if answers; then
        echo "running: pid $(pid_in "$pidfile"), unix://$socket, $(docker ps -q | wc -l) containers"
    else
        echo "not running: $dir"
        return 1
    fi
}

case "${1:-}" in
start | stop | status) "$1" ;;
*) fail "usage: $0 start|stop|status" ;;
esac
