package backup

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWhatIsLeftOut(t *testing.T) {
	unlogged := map[uint32]bool{16400: true}
	for _, c := range []struct {
		path string
		out  bool
	}{
		{"PG_VERSION", false}, {"postgresql.conf", false}, {"postgresql.auto.conf", false},
		{"postmaster.pid", true}, {"postmaster.opts", true}, {"backup_label", true}, {"tablespace_map", true},
		{"backup_manifest", true}, {"recovery.signal", true}, {"standby.signal", true},
		{"global/pg_control", true}, {"global/pg_filenode.map", false},
		{"pg_wal", false}, {"pg_wal/000000010000000000000001", true}, {"pg_wal/archive_status", false},
		{"pg_wal/archive_status/000000010000000000000001.ready", true}, {"pg_wal/summaries", false}, {"pg_wal/summaries/x.summary", true},
		{"pg_replslot", false}, {"pg_replslot/slot", true}, {"pg_dynshmem/x", true}, {"pg_notify/0000", true}, {"pg_serial/0000", true},
		{"pg_snapshots/x", true}, {"pg_stat_tmp/x", true}, {"pg_subtrans/0000", true},
		{"pg_xact/0000", false}, {"pg_multixact/offsets/0000", false}, {"pg_stat/pgstat.stat", false}, {"pg_logical/replorigin_checkpoint", false},
		{"base/5/16384", false}, {"base/5/16384_fsm", false}, {"base/5/16384.1", false},
		{"base/5/16400", true}, {"base/5/16400_fsm", true}, {"base/5/16400.1", true}, {"base/5/16400_init", false},
		{"base/5/t3_16500", true}, {"base/5/t3_16500_fsm", true},
		{"pg_tblspc/16384/PG_15_202209061/5/t3_16500", true}, {"pg_tblspc/16384/PG_15_202209061/5/16400", true},
		{"base/5/pg_internal.init", true}, {"base/5/pg_internal.init.123", true}, {"base/pgsql_tmp", true}, {"base/pgsql_tmp/pgsql_tmp1.0", true},
		{"mine/kept", false}, {"mine/not", true}, {"mine/emptied", false}, {"mine/emptied/x", true},
	} {
		e := excluder{user: []string{"mine/not", "mine/emptied/"}}
		if out := e.excluded(c.path, filepath.Base(c.path), unlogged); out != c.out {
			t.Errorf("%s is left out: %v, want %v", c.path, out, c.out)
		}
	}
}

func TestUnloggedRelationsAreKnownByTheirInitForks(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"16384", "16400", "16400_init", "16402_init", "notes_init"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if nodes := unloggedNodes("base/5", entries); len(nodes) != 2 || !nodes[16400] || !nodes[16402] {
		t.Errorf("unlogged are %v", nodes)
	}
}
