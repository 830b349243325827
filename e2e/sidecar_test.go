//go:build sidecar

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/s3test"
)

const (
	sidecarImage = "docker.io/local/postgres-pgbak:test"
	examples     = "../deploy/kubernetes/"
	podPatience  = 5 * time.Minute
)

// cluster is a Kubernetes of one node, which is this machine.
type cluster struct{ t *testing.T }

// kubectl runs a command; its output is the result, its failure that of the test.
func (c cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.try("", args...)
	if err != nil {
		c.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

func (c cluster) try(stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(c.t.Context(), "kubectl", args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (c cluster) apply(manifest string) {
	c.t.Helper()
	if out, err := c.try(manifest, "apply", "-f", "-"); err != nil {
		c.t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// in runs a command in a container of the pod.
func (c cluster) in(container string, command ...string) (string, error) {
	return c.try("", append([]string{"-n", "database", "exec", "postgres-0", "-c", container, "--"}, command...)...)
}

func (c cluster) mustIn(container string, command ...string) string {
	c.t.Helper()
	out, err := c.in(container, command...)
	if err != nil {
		c.t.Fatalf("%s in %s: %v\n%s", strings.Join(command, " "), container, err, out)
	}
	return out
}

func (c cluster) pod(path string) string {
	c.t.Helper()
	return c.kubectl("-n", "database", "get", "pod", "postgres-0", "-o", "jsonpath={"+path+"}")
}

// agent is a field of the sidecar's status.
func (c cluster) agent(field string) string {
	c.t.Helper()
	return c.pod(`.status.initContainerStatuses[?(@.name=="pgbak-agent")]` + field)
}

func (c cluster) await(what string, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(podPatience); !done(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			out, _ := c.try("", "-n", "database", "describe", "pods")
			c.t.Fatalf("%s does not come\n%s", what, out)
		}
	}
}

// metric is the sum of a family of the agent's metrics.
func (c cluster) metric(family string) (sum float64) {
	c.t.Helper()
	answer, err := http.Get("http://" + net.JoinHostPort(c.pod(".status.podIP"), "9188") + "/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, family+"{") {
			v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err != nil {
				c.t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}

func (c cluster) query(sql string) string {
	c.t.Helper()
	out, err := c.tryQuery(sql)
	if err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
	return out
}

func (c cluster) tryQuery(sql string) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	conn, err := pgconn.Connect(ctx, "host="+c.pod(".status.podIP")+" user=postgres dbname=postgres password=sesame")
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 || len(results[len(results)-1].Rows) == 0 {
		return "", err
	}
	return string(results[len(results)-1].Rows[0][0]), nil
}

// drained waits until the WAL that is there now is archived.
func (c cluster) drained() {
	c.t.Helper()
	last := c.query("SELECT pg_walfile_name(pg_switch_wal())")
	c.await(last+" in the archive", func() bool {
		return c.query("SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal(); SELECT coalesce(last_archived_wal, '') >= '"+last+"' FROM pg_stat_archiver") == "t"
	})
}

// TestTheSidecar runs deploy/kubernetes as it stands, but for names and keys: in a namespace that admits
// restricted pods only, it archives by the sidecar, which is killed meanwhile, and
// loses its data directory, which comes back. It needs root, and scripts/kubernetes.sh up.
func TestTheSidecar(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("NOT RUN: there is no cluster. scripts/kubernetes.sh test makes one and runs this")
	}
	c := cluster{t}
	store := s3test.MinIO(t, s3test.Options{})
	replace := c.prepare(store)
	manifest := replace(examples + "postgres-with-agent.yaml")
	c.apply(manifest)
	t.Cleanup(func() { c.cleanUp() })
	ready := func() bool { return c.pod(`.status.conditions[?(@.type=="Ready")].status`) == "True" }
	c.await("the pod", func() bool {
		out, _ := c.try("", "-n", "database", "get", "pod", "postgres-0", "-o", "name")
		return strings.HasPrefix(out, "pod/") && ready()
	})
	c.isRestricted()
	c.mustIn("pgbak-agent", "pgbak", "init")
	t.Logf("check:\n%s", c.mustIn("pgbak-agent", "pgbak", "check"))
	t.Logf("backup:\n%s", c.mustIn("pgbak-agent", "pgbak", "backup"))
	c.query("CREATE TABLE t AS SELECT n, repeat('x', 500) AS filler FROM generate_series(1, 100000) n")
	c.drained()
	// While WAL is written, and pushed, the agent is killed.
	written := make(chan error, 1)
	go func() {
		_, err := c.tryQuery("INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 200000) n")
		written <- err
	}()
	c.killTheAgent()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	c.drained()
	pushed := c.metric("pgbak_agent_pushed_files_total")
	if pushed < 4 {
		t.Errorf("the agent that came back stored %v files", pushed)
	}
	rows := c.query("SELECT count(*) FROM t")
	t.Logf("%s rows; the agent stored %v files after it was killed; archiver: %s", rows, pushed, c.query("SELECT row(archived_count, failed_count) FROM pg_stat_archiver"))

	c.kubectl("-n", "database", "scale", "statefulset", "postgres", "--replicas", "0")
	c.kubectl("-n", "database", "wait", "--for=delete", "pod/postgres-0", "--timeout", "5m")
	c.loseData()
	c.apply(replace(examples + "restore.yaml"))
	c.kubectl("-n", "database", "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/restore", "--timeout", "5m")
	t.Logf("restore:\n%s", c.kubectl("-n", "database", "logs", "restore"))
	c.kubectl("-n", "database", "delete", "pod", "restore")
	c.kubectl("-n", "database", "scale", "statefulset", "postgres", "--replicas", "1")
	c.await("the restored server", func() bool {
		if out, err := c.try("", "-n", "database", "get", "pod", "postgres-0", "-o", "name"); err != nil || !strings.HasPrefix(out, "pod/") || !ready() {
			return false
		}
		recovering, err := c.tryQuery("SELECT pg_is_in_recovery()")
		return err == nil && recovering == "f"
	})
	if got := c.query("SELECT count(*) FROM t"); got != rows {
		t.Errorf("%s rows came back, want %s", got, rows)
	}
	if c.metric("pgbak_agent_fetched_files_total") == 0 {
		t.Error("the agent fetched nothing")
	}
	c.drained() // it archives again, on its new timeline
	t.Logf("restored: %s rows, timeline %s", rows, c.query("SELECT timeline_id FROM pg_control_checkpoint()"))
}

// prepare loads the image, makes a volume and a way to the store; the result reads an example for this cluster.
func (c cluster) prepare(store *s3test.Server) (replace func(path string) string) {
	c.t.Helper()
	tarball := filepath.Join(c.t.TempDir(), "image.tar")
	serverImage(c.t, 17, sidecarImage, tarball)
	if out, err := exec.Command("../scripts/kubernetes.sh", "load", tarball).CombinedOutput(); err != nil {
		c.t.Fatalf("load the image: %v\n%s", err, out)
	}
	node := c.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
	address := c.kubectl("get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	volume, err := os.MkdirTemp("", "pgbak-volume-")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = os.RemoveAll(volume) })
	c.apply(fmt.Sprintf(`apiVersion: v1
kind: PersistentVolume
metadata: {name: pgbak-test}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  claimRef: {namespace: database, name: data-postgres-0}
  local: {path: %s}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%s]}]}]}}
`, volume, node))
	endpoint := forward(c.t, address, strings.TrimPrefix(store.URL, "http://"))
	bucket := store.Bucket(c.t)
	return func(path string) string {
		c.t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			c.t.Fatal(err)
		}
		return strings.NewReplacer("registry.example.com/postgres-pgbak:17", sidecarImage, "https://s3.example.com", "http://"+endpoint,
			"s3://backups/postgres", "s3://"+bucket+"/postgres", "  key: change-me", "  key: "+store.AccessKey,
			"  secret: change-me", "  secret: "+store.SecretKey, "  password: change-me", "  password: sesame").Replace(string(text))
	}
}

// forward lets pods reach a server on the loopback.
func forward(t *testing.T, address, to string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	carry := func(from, to net.Conn) {
		defer from.Close()
		defer to.Close()
		_, _ = io.Copy(to, from)
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			go carry(in, out)
			go carry(out, in)
		}
	}()
	return l.Addr().String()
}

// isRestricted holds that the server's container has no way to the repository but the agent.
func (c cluster) isRestricted() {
	c.t.Helper()
	if out := c.mustIn("postgres", "id"); !strings.Contains(out, "uid=999") {
		c.t.Errorf("the server runs as %s", out)
	}
	for _, container := range []string{"postgres", "pgbak-agent"} {
		if out, err := c.in(container, "touch", "/etc/x"); err == nil || !strings.Contains(out, "Read-only file system") {
			c.t.Errorf("in %s a file was made in /etc (%v): %s", container, err, out)
		}
	}
	if out, err := c.in("pgbak-agent", "touch", "/var/lib/postgresql/data/x"); err == nil || !strings.Contains(out, "Read-only file system") {
		c.t.Errorf("the agent may write into the data directory (%v): %s", err, out)
	}
	if out, err := c.in("postgres", "ls", "/etc/pgbak/secrets"); err == nil && strings.TrimSpace(out) != "" {
		c.t.Errorf("the server's container has %s", out)
	}
	if out, err := c.in("postgres", "pgbak", "repo", "check"); err == nil || !strings.Contains(out, "no such file") {
		c.t.Errorf("without the agent the server reaches the repository (%v): %s", err, out)
	}
}

// killTheAgent kills the sidecar's process, as the kernel does when memory is short, and waits for the next one.
func (c cluster) killTheAgent() {
	c.t.Helper()
	id := strings.TrimPrefix(c.agent(".containerID"), "containerd://")
	restarts := c.agent(".restartCount")
	groups, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	killed := 0
	for _, path := range groups {
		text, err := os.ReadFile(path)
		if err != nil || id == "" || !strings.Contains(string(text), id) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	if killed == 0 {
		c.t.Fatalf("no process of container %q", id)
	}
	c.await("the sidecar's restart", func() bool {
		return c.agent(".restartCount") != restarts && c.agent(".started") == "true"
	})
}

// loseData removes the data directory, by a pod that has the volume.
func (c cluster) loseData() {
	c.t.Helper()
	path := c.kubectl("get", "pv", "pgbak-test", "-o", "jsonpath={.spec.local.path}")
	if err := os.RemoveAll(filepath.Join(path, "data")); err != nil {
		c.t.Fatal(err)
	}
}

func (c cluster) cleanUp() {
	if c.t.Failed() {
		for _, container := range []string{"directories", "pgbak-agent", "postgres"} {
			out, _ := exec.Command("kubectl", "-n", "database", "logs", "postgres-0", "-c", container, "--tail", "60").CombinedOutput()
			c.t.Logf("%s:\n%s", container, out)
		}
	}
	for _, what := range [][]string{{"delete", "namespace", "database", "--timeout", "3m"}, {"delete", "pv", "pgbak-test", "--timeout", "1m"}} {
		if out, err := exec.Command("kubectl", what...).CombinedOutput(); err != nil {
			c.t.Errorf("kubectl %s: %v\n%s", strings.Join(what, " "), err, out)
		}
	}
}
