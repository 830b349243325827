package main

import (
	"strings"
	"testing"
)

const archiveBase = `repositories: [{name: local, url: "file:///r"}]
stanzas: [{name: main, pgdata: /var/lib/pg}]
`

func TestTheSectionsArchiveAndAgent(t *testing.T) {
	c, err := parseConfig([]byte(archiveBase + `archive: {processes: 4, spool: /var/spool/pgbak, compression: "zstd:5", queue-max: 64GiB, prefetch: 256MiB}
agent: {socket: /run/pgbak/agent.sock, when-absent: fallback, listen: "127.0.0.1:9188"}
`))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Archive.parse()
	if err != nil || s.processes != 4 || s.spool != "/var/spool/pgbak" || s.queueMax != 64<<30 || s.prefetch != 256<<20 {
		t.Errorf("archive is %+v, %v", s, err)
	}
	if c, err = parseConfig([]byte(archiveBase)); err != nil {
		t.Fatal(err)
	}
	if s, err = c.Archive.parse(); err != nil || s.spool != "" || s.queueMax != 0 || s.prefetch != defaultPrefetch {
		t.Errorf("by default archive is %+v, %v", s, err)
	}
}

func TestWrongSettingsOfArchiveAndAgentAreRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"archive: {processes: 0}", "archive.processes is 0"},
		{"archive: {spool: spool}", `archive.spool "spool" is not an absolute path`},
		{"archive: {spool: /var/lib/pg}", "archive.spool /var/lib/pg is in the data directory"},
		{"archive: {spool: /var/lib/pg/../pg/spool}", "is in the data directory of stanza \"main\""},
		{"archive: {compression: lz4}", "archive.compression"},
		{"archive: {queue-max: 64GiB}", "archive.queue-max needs archive.spool"},
		{"archive: {spool: /s, queue-max: 64}", `archive.queue-max: "64" is not a size`},
		{"archive: {spool: /s, queue-max: 0GiB}", "archive.queue-max"},
		{"archive: {spool: /s, queue-max: -1GiB}", "archive.queue-max"},
		{"archive: {prefetch: 9999999999999999999TiB}", "archive.prefetch"},
		{"archive: {prefetch: 2000000TiB}", "archive.prefetch"},
		{"archive: {queue: 1}", "unknown key"},
		{"agent: {socket: agent.sock}", "agent.socket \"agent.sock\" is not an absolute path"},
		{"agent: {socket: /" + strings.Repeat("x", 107) + "}", "agent.socket has 108 bytes"},
		{"agent: {listen: \":1\"}", "agent.socket is missing"},
		{"agent: {when-absent: error}", "agent.socket is missing"},
		{"agent: {socket: /s, when-absent: ignore}", `agent.when-absent "ignore" is unknown`},
		{"agent: {socket: /s, listen: nowhere}", `agent.listen "nowhere" is not HOST:PORT`},
	} {
		if _, err := parseConfig([]byte(archiveBase + c.text + "\n")); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
	// A neighbour whose name only begins alike is another directory.
	if _, err := parseConfig([]byte(archiveBase + "archive: {spool: /var/lib/pg-spool}\n")); err != nil {
		t.Errorf("a neighbour of the data directory: %v", err)
	}
}
