package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/pgbak/pgbak/repo"
)

// benchCluster is like a fresh cluster with some data: a thousand small files
// and a few big ones.
func benchCluster() []entry {
	entries := []entry{{path: "PG_VERSION", data: []byte("18\n")}, {path: "backup_label", data: []byte("x")}, {path: "base"}, {path: "base/1"}}
	for i := range 1000 {
		entries = append(entries, entry{path: fmt.Sprintf("base/1/1%04d", i), data: text(testPage*(1+i%4), uint64(i))})
	}
	big := text(64<<20, 9)
	for i := range 8 {
		entries = append(entries, entry{path: fmt.Sprintf("base/1/2%04d", i), data: big})
	}
	return append(entries, entry{path: "global"}, entry{path: "global/pg_control", data: text(testPage, 6)})
}

func BenchmarkRestore(b *testing.B) {
	entries := benchCluster()
	_, s := stored(b, entries, repo.BackupHeader{})
	bytes := int64(0)
	for _, e := range entries {
		bytes += int64(len(e.data))
	}
	b.SetBytes(bytes)
	b.ResetTimer()
	for i := range b.N {
		o := options(s, filepath.Join(b.TempDir(), fmt.Sprint(i)))
		o.Processes = 2
		if _, err := Run(context.Background(), o); err != nil {
			b.Fatal(err)
		}
	}
}
