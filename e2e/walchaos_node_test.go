package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// chaosNode is a host with a server, that lives until its disk is lost.
type chaosNode struct {
	*host
	c      *chaos
	name   string
	data   string
	branch branch // on which it writes; as a standby, nothing
	work   *chaosWork
	agent  *chaosService
	wire   *chaosWire // on which replication comes to it
	// upstream is where it gets its WAL from, as a standby.
	upstream *chaosNode
}

// branch is a timeline together with what led to it: two servers may give the
// same number to different timelines.
type branch struct {
	timeline uint32
	// history is what the history file says without remarks: "1 5000000,2 7000000".
	history string
}

// stretch is a part of the way to a branch's present.
type stretch struct {
	branch
	begin, end uint64 // LSN; end is the maximum on the last one
}

const noEnd = ^uint64(0)

// way is the branch's ancestry, oldest first, and itself. A standby that is
// promoted before it has come to the end of its primary's parent writes switch
// points that decrease: then the youngest timeline that had begun counts, and of one between nothing.
func (b branch) way() []stretch {
	var way []stretch
	var begin uint64
	history := ""
	for _, entry := range strings.FieldsFunc(b.history, func(r rune) bool { return r == ',' }) {
		var timeline uint32
		var end uint64
		if _, err := fmt.Sscan(entry, &timeline, &end); err != nil {
			panic(err) // written by readBranch
		}
		way = append(way, stretch{branch{timeline, history}, begin, end})
		history = strings.TrimPrefix(history+","+entry, ",")
		begin = end
	}
	way = append(way, stretch{b, begin, noEnd})
	for i := len(way) - 2; i >= 0; i-- {
		way[i].end = min(way[i].end, way[i+1].end, way[i+1].begin)
	}
	return way
}

// readBranch reads a history file by hand; timeline 1 has none.
func readBranch(timeline uint32, file string) (branch, error) {
	b := branch{timeline: timeline}
	if timeline == 1 {
		return b, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return b, err
	}
	var entries []string
	for _, line := range strings.Split(string(data), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		entries = append(entries, fields[0]+" "+fmt.Sprint(lsnOf(fields[1])))
	}
	b.history = strings.Join(entries, ",")
	return b, nil
}

// lsnOf is the number that PostgreSQL's "X/Y" stands for, or 0.
func lsnOf(text string) uint64 {
	lsn, err := postgres.ParseLSN(text)
	if err != nil {
		return 0
	}
	return uint64(lsn)
}

// newNode makes the place for a node.
func (c *chaos) newNode(t *testing.T) *chaosNode {
	t.Helper()
	name := fmt.Sprintf("n%d", len(c.nodes)+1)
	dir := filepath.Join(c.dir, name)
	for _, d := range []string{dir, filepath.Join(dir, "done"), filepath.Join(dir, "tried"), filepath.Join(dir, "spool")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.GiveToServer(t, dir)
	n := &chaosNode{c: c, name: name, data: filepath.Join(dir, "data"), wire: newChaosWire(t),
		host: &host{dir: dir, program: c.program, config: filepath.Join(dir, "pgbak.yaml"), repo: c.local}}
	c.nodes = append(c.nodes, n)
	return n
}

// configure writes the node's configuration: the repositories are everybody's, the rest is its own.
func (n *chaosNode) configure(t *testing.T) {
	t.Helper()
	n.wire.leadTo(n.Port)
	m, more := n.c.means, ""
	if m.spool {
		more = "archive: {spool: " + filepath.Join(n.dir, "spool") + ", processes: 2"
		if m.queueMax {
			more += ", queue-max: 8MiB"
		}
		more += "}\n"
	}
	if m.agent {
		more += "agent: {socket: " + filepath.Join(n.dir, "agent.sock") + "}\n"
	}
	n.write(t, "pgbak.yaml", fmt.Sprintf(`repositories:
  - name: local
    url: file://%s
    retry: {attempts: 2, time: 1s}
  - name: bucket
    %s
stanzas:
  - name: main
    pgdata: %s
    connection: %q
processes: 2
%s`, n.c.local, n.c.bucket.settings(), n.data, n.DSN(), more))
	if m.agent && n.agent == nil {
		n.agent = startChaosService(t, n.program, "--config", n.config, "agent")
		if !await(t.Context(), time.Minute, func() bool { return exists(filepath.Join(n.dir, "agent.sock")) }) {
			t.Fatalf("the agent of %s does not listen", n.name)
		}
	}
}

// dismiss ends what runs beside the server.
func (n *chaosNode) dismiss() {
	n.rest()
	if n.agent != nil {
		n.agent.stop()
		n.agent = nil
	}
}

// lead says that the node is a primary now, and lets clients work on it.
func (n *chaosNode) lead(t *testing.T) {
	t.Helper()
	text := n.Query(t, "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int")
	timeline, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	if n.branch, err = readBranch(uint32(timeline), filepath.Join(n.data, "pg_wal", fmt.Sprintf("%08X.history", timeline))); err != nil {
		t.Fatal(err)
	}
	n.toil()
}

// toil lets clients work, rest ends that.
func (n *chaosNode) toil() { n.work = startChaosWork(n, 3) }

func (n *chaosNode) rest() {
	if n.work != nil {
		n.work.stop()
		n.work = nil
	}
}

// ensureStandby makes a standby of the primary out of the archive, if there is none.
func (c *chaos) ensureStandby(t *testing.T) {
	t.Helper()
	if len(c.standbys) == 0 {
		c.addStandby(t, c.primary)
	}
}

// addStandby makes a standby out of the archive.
func (c *chaos) addStandby(t *testing.T, upstream *chaosNode) {
	t.Helper()
	n := c.newNode(t)
	// The configuration of a host that has no server yet.
	n.Cluster = &pgtest.Cluster{DataDir: n.data, Major: c.major}
	n.configure(t)
	c.restoreStandby(t, n)
	n.openStandby(t, upstream)
	await(t.Context(), 3*time.Minute, func() bool { return n.streams() || c.stranded(n) })
	if !n.streams() {
		if !c.stranded(n) {
			t.Fatalf("the new standby %s does not stream\n%s", n.name, lastWords(n.Log(), 30))
		}
		c.counts["standbys that needed WAL that is nowhere"]++
		c.lose(t, n)
		c.backUp(t, "full")
		c.addStandby(t, c.primary)
		return
	}
	c.standbys = append(c.standbys, n)
	c.counts["standbys made from the archive"]++
}

// restoreStandby restores the newest backup on the primary's way.
func (c *chaos) restoreStandby(t *testing.T, n *chaosNode) {
	t.Helper()
	repository := chaosRepositories[c.IntN(2)]
	n.expect(t, codeOK, "--repo", repository, "restore", "--target-dir", n.data, "--target-timeline", fmt.Sprint(c.primary.branch.timeline))
	if err := os.Remove(filepath.Join(n.data, "recovery.signal")); err != nil {
		t.Fatal(err)
	}
	n.write(t, "data/standby.signal", "")
}

// lose takes a node out of service for ever; what it would still have archived is written down.
func (c *chaos) lose(t *testing.T, n *chaosNode) {
	t.Helper()
	n.rest()
	if n.Running() {
		n.Kill(t)
	}
	n.dismiss()
	c.truth.harvest(t, n)
	if err := os.RemoveAll(n.data); err != nil {
		t.Fatal(err)
	}
	c.counts["servers lost"]++
}
