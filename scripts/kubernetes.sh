#!/usr/bin/env bash
# A real Kubernetes of one node on a Debian machine, as root, for tests: etcd, kube-apiserver, controller manager, scheduler, containerd
# and kubelet. No image registry and no download site is asked: the programs are built from their Go modules, the rest are packages.
#
#	scripts/kubernetes.sh build           # once; 3 to 10 minutes on 2 cores, kept in $KUBE_CACHE
#	scripts/kubernetes.sh up              # about 30 s; writes $KUBE_RUN/admin.conf
#	scripts/kubernetes.sh load IMAGE.tar
#	scripts/kubernetes.sh down
#	scripts/kubernetes.sh test            # all of it, with the tests that need a cluster
set -euo pipefail
KUBE_VERSION=${KUBE_VERSION:-1.34.2}
KUBE_CACHE=${KUBE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pgbak-kube/$KUBE_VERSION}
KUBE_RUN=${KUBE_RUN:-/tmp/pgbak-kube}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:$KUBE_CACHE/bin # for kubectl, where the machine has none

say() { printf 'kubernetes: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# shellcheck source=scripts/apt.sh
. "$here/apt.sh"

# image OUT.tar NAME ENTRYPOINT DIRECTORY: an image of one layer, as docker save writes it.
image() {
  local work sum
  work=$(mktemp -d)
  tar -C "$4" -cf "$work/layer.tar" .
  sum=$(sha256sum <"$work/layer.tar")
  printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["%s"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{}]}' \
    "$3" "${sum%% *}" >"$work/config.json"
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$2" >"$work/manifest.json"
  tar -C "$work" -cf "$1" config.json layer.tar manifest.json
  rm -rf "$work"
}

build() {
  mkdir -p "$KUBE_CACHE/src" "$KUBE_CACHE/bin"
  cd "$KUBE_CACHE/src"
  local mod
  mod=$(cd /tmp && GOFLAGS=-mod=mod go mod download -json "k8s.io/kubernetes@v$KUBE_VERSION" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
  {
    printf 'module kubeforpgbak\n\ngo 1.24.0\n\nrequire (\n\tk8s.io/kubernetes v%s\n\tgo.etcd.io/etcd/server/v3 v3.6.8\n)\n\n' "$KUBE_VERSION"
    grep -oE 'k8s.io/[a-z-]+ v0.0.0$' "$mod" | awk '{print $1}' | sort -u |
      while read -r m; do echo "replace $m => $m v0.${KUBE_VERSION#1.}"; done
  } > go.mod
  cat > tools.go <<'GO'
//go:build tools

package tools

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
GO
  go mod tidy -e >/dev/null 2>&1
  local ld="-s -w -X k8s.io/component-base/version.gitVersion=v$KUBE_VERSION"
  CGO_ENABLED=0 go build -ldflags "$ld" -o "$KUBE_CACHE/bin/" \
    k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet}
  command -v kubectl >/dev/null || CGO_ENABLED=0 go build -ldflags "$ld" -o "$KUBE_CACHE/bin/" k8s.io/kubernetes/cmd/kubectl
  CGO_ENABLED=0 go build -ldflags '-s -w' -o "$KUBE_CACHE/bin/etcd" go.etcd.io/etcd/server/v3
  mkdir -p pause/root
  printf 'package main\n\nimport (\n\t"os"\n\t"os/signal"\n\t"syscall"\n)\n\nfunc main() {\n\tc := make(chan os.Signal, 1)\n\tsignal.Notify(c, syscall.SIGTERM, syscall.SIGINT)\n\t<-c\n}\n' > pause/main.go
  CGO_ENABLED=0 go build -o pause/root/pause pause/main.go
  image "$KUBE_CACHE/pause.tar" docker.io/local/pause:1 /pause pause/root
}

start() { # NAME COMMAND...: in the background, its output in log/NAME.log, its id in NAME.pid
  local name=$1; shift
  setsid "$@" > "log/$name.log" 2>&1 &
  echo $! > "$name.pid"
}

kubeconfig() { # FILE TOKEN
  cat > "$1" <<X
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: $2}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
X
}

up() {
  command -v containerd >/dev/null || apt_install containerd runc containernetworking-plugins iptables conntrack socat
  # Who has what is in there, or may ask apiserver or kubelet, is root on this machine.
  rm -rf "$KUBE_RUN"; mkdir -m 0700 "$KUBE_RUN"
  cd "$KUBE_RUN"
  mkdir pki log containerd cni
  local admin kubelet
  admin=$(openssl rand -hex 16) kubelet=$(openssl rand -hex 16)
  local bin=$KUBE_CACHE/bin
  openssl genrsa -out pki/sa.key 2048 2>/dev/null
  openssl rsa -in pki/sa.key -pubout -out pki/sa.pub 2>/dev/null
  openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=apiserver -days 30 -keyout pki/apiserver-to-kubelet.key -out pki/apiserver-to-kubelet.crt 2>/dev/null
  printf '%s,admin,admin,"system:masters"\n%s,kubelet,kubelet,"system:masters"\n' "$admin" "$kubelet" > tokens.csv
  start etcd "$bin/etcd" --data-dir "$KUBE_RUN/etcd" --listen-client-urls http://127.0.0.1:23790 \
    --advertise-client-urls http://127.0.0.1:23790 --listen-peer-urls http://127.0.0.1:23800 --unsafe-no-fsync
  sleep 2
  start apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:23790 --cert-dir="$KUBE_RUN/pki" --secure-port=6443 \
    --bind-address=127.0.0.1 --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=pki/sa.pub \
    --service-account-signing-key-file=pki/sa.key --token-auth-file=tokens.csv --authorization-mode=Node,RBAC \
    --kubelet-client-certificate=pki/apiserver-to-kubelet.crt --kubelet-client-key=pki/apiserver-to-kubelet.key \
    --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true --kubelet-preferred-address-types=InternalIP
  for _ in $(seq 60); do
    curl -sk -H @- https://127.0.0.1:6443/readyz <<<"Authorization: Bearer $admin" | grep -q ok && break; sleep 1
  done
  kubeconfig admin.conf "$admin"; kubeconfig kubelet.conf "$kubelet"
  start controller-manager "$bin/kube-controller-manager" --kubeconfig=admin.conf --leader-elect=false --bind-address=127.0.0.1 \
    --service-account-private-key-file=pki/sa.key --root-ca-file=pki/apiserver.crt
  start scheduler "$bin/kube-scheduler" --kubeconfig=admin.conf --leader-elect=false --bind-address=127.0.0.1
  cat > cni/10-pods.conflist <<X
{"cniVersion":"0.4.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,
 "ipam":{"type":"host-local","ranges":[[{"subnet":"10.88.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}
X
  cat > containerd/config.toml <<X
version = 2
root = "$KUBE_RUN/containerd/root"
state = "$KUBE_RUN/containerd/state"
[grpc]
  address = "$KUBE_RUN/containerd/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/local/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$KUBE_RUN/cni"
X
  start containerd containerd -c containerd/config.toml
  for _ in $(seq 30); do ctr -a containerd/c.sock version >/dev/null 2>&1 && break; sleep 1; done
  load "$KUBE_CACHE/pause.tar"
  cat > kubelet.yaml <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: "$KUBE_RUN/pki/apiserver-to-kubelet.crt"}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
failSwapOn: false
failCgroupV1: false
containerRuntimeEndpoint: "unix://$KUBE_RUN/containerd/c.sock"
evictionHard: {"nodefs.available": "1%", "imagefs.available": "1%"}
resolvConf: ""
clusterDNS: ["10.96.0.10"]
clusterDomain: cluster.local
enforceNodeAllocatable: []
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
X
  start kubelet "$bin/kubelet" --config=kubelet.yaml --kubeconfig=kubelet.conf --hostname-override=node1 --root-dir="$KUBE_RUN/kubelet"
  for _ in $(seq 60); do
    KUBECONFIG=$KUBE_RUN/admin.conf kubectl get node node1 2>/dev/null | grep -q ' Ready' && { echo "node1 is Ready"; return; }; sleep 1
  done
  echo "the node did not become Ready; see $KUBE_RUN/log" >&2; return 1
}

load() { ctr -a "$KUBE_RUN/containerd/c.sock" -n k8s.io images import "$1"; }

# down ends what up has started, by the ids that it has written, and what ran in pods.
down() {
  cd "$KUBE_RUN" 2>/dev/null || return 0
  local ids
  ids=$(ctr -a containerd/c.sock -n k8s.io tasks ls -q 2>/dev/null || true)
  for n in kubelet scheduler controller-manager apiserver etcd; do [ -f $n.pid ] && kill "$(cat $n.pid)" 2>/dev/null || true; done
  for id in $ids; do ctr -a containerd/c.sock -n k8s.io tasks kill -s KILL "$id" >/dev/null 2>&1 || true; done
  sleep 1
  [ -f containerd.pid ] && kill "$(cat containerd.pid)" 2>/dev/null || true
  sleep 1
  awk -v d="$KUBE_RUN" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r | xargs -r -n1 umount -l
  ip link delete cni0 2>/dev/null || true
}

# try: the tests, in a cluster that is made for them.
try() {
  [ -e "$KUBE_CACHE/pause.tar" ] || build
  trap down EXIT
  up
  cd "$here/.."
  KUBECONFIG=$KUBE_RUN/admin.conf KUBE_RUN=$KUBE_RUN go test -count=1 -tags sidecar -timeout 30m -v -run TestTheSidecar ./e2e
}

case ${1:-} in
  build | up | down) "$1" ;;
  load) load "$2" ;;
  test) try ;;
  *) sed -n '2,/^set/s/^# \?//p' "${BASH_SOURCE[0]}" >&2; exit 64 ;;
esac
