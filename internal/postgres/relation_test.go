package postgres

import (
	"fmt"
	"regexp"
	"testing"
)

func TestParseRelationPath(t *testing.T) {
	for path, want := range map[string]RelationFile{
		"base/5/16384":                                  {Database: 5, Node: 16384},
		"base/5/16384.1":                                {Database: 5, Node: 16384, Segment: 1},
		"base/5/16384.4294967295":                       {Database: 5, Node: 16384, Segment: 4294967295},
		"base/5/16384_fsm":                              {Database: 5, Node: 16384, Fork: FSMFork},
		"base/5/16384_vm.10":                            {Database: 5, Node: 16384, Fork: VMFork, Segment: 10},
		"base/5/16384_init":                             {Database: 5, Node: 16384, Fork: InitFork},
		"base/4294967295/4294967295":                    {Database: 4294967295, Node: 4294967295},
		"base/5/t3_16384":                               {Database: 5, Node: 16384, Temporary: true, BackendID: 3},
		"base/5/t0_16384":                               {Database: 5, Node: 16384, Temporary: true},
		"base/5/t12_16384_fsm.2":                        {Database: 5, Node: 16384, Temporary: true, BackendID: 12, Fork: FSMFork, Segment: 2},
		"global/1262":                                   {Tablespace: 1664, Node: 1262},
		"global/1262_vm":                                {Tablespace: 1664, Node: 1262, Fork: VMFork},
		"pg_tblspc/16385/PG_15_202209061/5/16390.7":     {Tablespace: 16385, Database: 5, Node: 16390, Segment: 7},
		"pg_tblspc/16385/PG_18_202506291/5/t1_16390_vm": {Tablespace: 16385, Database: 5, Node: 16390, Temporary: true, BackendID: 1, Fork: VMFork},
	} {
		if got, ok := ParseRelationPath(path); !ok || got != want {
			t.Errorf("%s: %+v, %v; want %+v", path, got, ok, want)
		}
	}
}

func TestParseRelationPathRefuses(t *testing.T) {
	for _, path := range []string{
		"", "base", "base/", "base/5", "base/5/", "base/5/PG_VERSION", "base/5/pg_filenode.map", "base/5/pg_internal.init",
		"base/pgsql_tmp/pgsql_tmp123.0", "base/5/16384/1", "/base/5/16384", "./base/5/16384", "base//16384",
		"base/05/16384", "base/0/16384", "base/5/016384", "base/5/0", "base/5/4294967296", "base/5/99999999999999999999",
		"base/5/16384.", "base/5/16384.0", "base/5/16384.01", "base/5/16384.1.2", "base/5/16384.x", "base/5/16384.1_fsm",
		"base/5/16384_", "base/5/16384_main", "base/5/16384_FSM", "base/5/16384_fsm_vm", "base/5/-1", "base/5/+1", "base/5/1 ",
		"base/5/t_16384", "base/5/t3", "base/5/t3_", "base/5/t03_16384", "base/5/t00_1", "base/5/t3_016384",
		"base/5/t2147483648_1", "base/5/tt3_16384",
		"global/t3_16384", "global/pg_control", "global/pg_filenode.map", "global/5/1262", "global/0",
		"pg_tblspc/16385", "pg_tblspc/16385/PG_15_202209061/5", "pg_tblspc/16385/5/16390", "pg_tblspc/x/PG_15_202209061/5/16390",
		"pg_tblspc/16385/PG_15/5/16390", "pg_tblspc/16385/PG_15_x/5/16390", "pg_tblspc/16385/15_202209061/5/16390",
		"pg_tblspc/16385/PG_15_202209061/pgsql_tmp/1", "pg_wal/000000010000000000000001", "pg_xact/0000", "PG_VERSION", "other/5/16384",
	} {
		if got, ok := ParseRelationPath(path); ok || got != (RelationFile{}) {
			t.Errorf("%q was read as %+v", path, got)
		}
	}
}

// In a cluster of its own making PostgreSQL has no other files below base/ and
// global/ than relations and these.
func TestParseRelationPathKnowsRealClusters(t *testing.T) {
	below := regexp.MustCompile(`^(base|global)/`)
	other := regexp.MustCompile(`/(PG_VERSION|pg_filenode\.map|pg_control)$`)
	eachMajor(t, func(t *testing.T, major int) {
		m, err := ParseBackupManifest(sample(t, major, "backup_manifest.gz"))
		if err != nil {
			t.Fatal(err)
		}
		relations := 0
		for _, file := range m.Files {
			_, ok := ParseRelationPath(file.Path)
			if ok {
				relations++
			}
			if want := below.MatchString(file.Path) && !other.MatchString(file.Path); ok != want {
				t.Errorf("%s: relation %v, want %v", file.Path, ok, want)
			}
		}
		if relations < 500 {
			t.Errorf("only %d relation files", relations)
		}
	})
}

func FuzzParseRelationPath(f *testing.F) {
	for _, path := range []string{"base/5/t3_16384_init.2", "global/1262_vm.1", "pg_tblspc/16385/PG_15_202209061/5/16390_fsm"} {
		f.Add(path)
	}
	version := regexp.MustCompile(`^pg_tblspc/[0-9]+/(PG_[0-9]+_[0-9]+)/`)
	f.Fuzz(func(t *testing.T, path string) {
		r, ok := ParseRelationPath(path)
		if !ok {
			return
		}
		// Every relation file has one spelling, so it can be told from its parts.
		spelled := fmt.Sprintf("base/%d/", r.Database)
		if r.Tablespace == GlobalTablespace && r.Database == 0 {
			spelled = "global/"
		} else if r.Tablespace != 0 {
			spelled = fmt.Sprintf("pg_tblspc/%d/%s/%d/", r.Tablespace, version.FindStringSubmatch(path)[1], r.Database)
		}
		if r.Temporary {
			spelled += fmt.Sprintf("t%d_", r.BackendID)
		}
		spelled += fmt.Sprint(r.Node)
		if r.Fork != MainFork {
			spelled += "_" + r.Fork.String()
		}
		if r.Segment > 0 {
			spelled += fmt.Sprintf(".%d", r.Segment)
		}
		if spelled != path {
			t.Errorf("%q was read as %+v, which is spelled %q", path, r, spelled)
		}
	})
}

func BenchmarkParseRelationPath(b *testing.B) {
	for b.Loop() {
		ParseRelationPath("pg_tblspc/16385/PG_15_202209061/5/16390_fsm.12")
	}
}
