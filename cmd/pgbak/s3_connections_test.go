package main

import (
	"path/filepath"
	"testing"

	"github.com/pgbak/pgbak/internal/s3test"
)

// TestOneConnectionIsEnough: nothing may keep an answer open while it waits for another.
func TestOneConnectionIsEnough(t *testing.T) {
	bucket := newBucket(t, s3test.MinIO(t, s3test.Options{}))
	h := hostWith(t, configOf(bucket.repository("s3", bucket.URL, "    limits: {connections: 1}\n")), nil)
	h.expect(t, exitOK, "init")
	// A manifest of more than a reader keeps in memory.
	h.Exec(t, "DO $$ BEGIN FOR i IN 1..3000 LOOP EXECUTE format('CREATE TABLE t%s (n int)', i); IF i % 200 = 0 THEN COMMIT; END IF; END LOOP; END $$")
	h.Exec(t, "CREATE TABLE big AS SELECT g, md5(g::text) FROM generate_series(1, 300000) g")
	h.expect(t, exitOK, "backup")
	h.expect(t, exitOK, "backup")
	h.expect(t, exitOK, "repo", "check")
	h.expect(t, exitOK, "info")
	h.expect(t, exitOK, "restore", "--target-dir", filepath.Join(h.dir, "restored"), "--archive-mode", "off")
}
