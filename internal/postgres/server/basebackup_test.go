package server

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// received is what came over the wire: size and CRC-32C by path.
type received struct {
	archives []BackupArchive
	files    map[string]uint32
	manifest postgres.BackupManifest
	end      BaseBackupEnd
}

func receiveAll(t *testing.T, b *BaseBackup) received {
	t.Helper()
	r := received{files: map[string]uint32{}}
	var err error
	r.end, err = b.Receive(t.Context(), func(a BackupArchive, content io.Reader) error {
		r.archives = append(r.archives, a)
		in := tar.NewReader(content)
		for {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if h.Typeflag != tar.TypeReg {
				continue
			}
			data, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			path := strings.TrimPrefix(h.Name, "./")
			if a.OID != 0 {
				path = fmt.Sprintf("pg_tblspc/%d/%s", a.OID, path)
			}
			r.files[path] = crc32c.Update(0, data)
		}
	}, func(content io.Reader) error {
		data, err := io.ReadAll(content)
		if err == nil {
			r.manifest, err = postgres.ParseBackupManifest(data)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, hint.Of(err))
	}
	return r
}

func replication(t *testing.T, dsn string) *ReplicationConn {
	t.Helper()
	c := must(ConnectReplication(t.Context(), dsn))(t)
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// testBaseBackup compares what comes with the manifest that the server sends.
func testBaseBackup(t *testing.T, c *pgtest.Cluster) {
	location := filepath.Join(pgtest.TempDir(t), "space")
	if err := os.Mkdir(location, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, location)
	c.Exec(t, fmt.Sprintf("CREATE TABLESPACE streamed LOCATION '%s'", location))
	c.Exec(t, "CREATE TABLE streamed TABLESPACE streamed AS SELECT n, md5(n::text) FROM generate_series(1, 30000) n")
	defer c.Exec(t, "DROP TABLESPACE streamed")
	defer c.Exec(t, "DROP TABLE streamed")
	info := must(connect(t, c.DSN()).Info(t.Context()))(t)

	conn := replication(t, c.DSN())
	system := must(conn.IdentifySystem(t.Context()))(t)
	if system.SystemID != info.SystemID || system.Timeline != info.Timeline || system.LSN == 0 {
		t.Errorf("the system is %+v, want %d on timeline %d", system, info.SystemID, info.Timeline)
	}
	for range 2 { // a session is good for more than one
		b := must(conn.BaseBackup(t.Context(), BaseBackupOptions{Label: "it's pgbak", Fast: true}))(t)
		r := receiveAll(t, b)
		if len(r.archives) != 2 || r.archives[0].Location != location || r.archives[1].OID != 0 || r.archives[1].Size < 5<<20 {
			t.Errorf("archives %+v", r.archives)
		}
		listed := map[string]uint32{}
		for _, f := range r.manifest.Files {
			listed[f.Path] = *f.CRC32C
		}
		if !maps.Equal(listed, r.files) || len(listed) < 100 {
			t.Errorf("%d files came, the server's manifest has %d, or others", len(r.files), len(listed))
		}
		if r.end.LSN <= b.Start || r.end.Timeline != b.Timeline || r.end.Damaged {
			t.Errorf("from %s on timeline %d to %+v", b.Start, b.Timeline, r.end)
		}
		if n := len(r.manifest.WALRanges); n != 1 || r.manifest.WALRanges[0].Start != b.Start || r.manifest.WALRanges[0].End != r.end.LSN {
			t.Errorf("WAL ranges %+v, want %s to %s", r.manifest.WALRanges, b.Start, r.end.LSN)
		}
	}
}

const senders = `SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'`

// testBaseBackupCancelled cancels in the middle of an archive, which must free
// the server's process at once.
func testBaseBackupCancelled(t *testing.T, c *pgtest.Cluster) {
	conn := replication(t, c.DSN())
	ctx, cancel := context.WithCancelCause(t.Context())
	b := must(conn.BaseBackup(ctx, BaseBackupOptions{Label: "cancelled", Fast: true, MaxRate: 64 << 10}))(t)
	why := errors.New("enough")
	_, err := b.Receive(ctx, func(_ BackupArchive, content io.Reader) error {
		if _, err := io.CopyN(io.Discard, content, 100<<10); err != nil {
			return err
		}
		cancel(why)
		_, err := io.Copy(io.Discard, content)
		return err
	}, func(io.Reader) error { return nil })
	if !errors.Is(err, why) {
		t.Errorf("%v, want the cause %v", err, why)
	}
	c.WaitFor(t, senders, "0", 10*time.Second)
}

// testIncrementalRefused asks for an incremental where the server cannot make
// one; the session must be usable afterwards.
func testIncrementalRefused(t *testing.T, c *pgtest.Cluster) {
	conn := replication(t, c.DSN())
	if c.Major < 17 {
		if err := conn.UploadManifest(t.Context(), bytes.NewReader(nil)); err == nil {
			t.Error("a manifest was uploaded")
		}
		return
	}
	_, err := conn.BaseBackup(t.Context(), BaseBackupOptions{Label: "x", Fast: true, Incremental: true})
	if err == nil || !strings.Contains(err.Error(), "start the base backup: ") {
		t.Fatalf("%v, want the server's refusal", err)
	}
	b := must(conn.BaseBackup(t.Context(), BaseBackupOptions{Label: "x", Fast: true}))(t)
	receiveAll(t, b)
}

func TestBaseBackupCommand(t *testing.T) {
	o := BaseBackupOptions{Label: "it's", Fast: true, MaxRate: 3 << 20, Incremental: true}
	for major, want := range map[int]string{
		14: "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MAX_RATE 3072 TABLESPACE_MAP MANIFEST 'yes'",
		17: "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT 'false', MAX_RATE 3072, TABLESPACE_MAP, MANIFEST 'yes', INCREMENTAL)",
	} {
		if got := o.command(major); got != want {
			t.Errorf("%d: %s\nwant %s", major, got, want)
		}
	}
}

func TestReplicationRefusalsSayWhatToDo(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{Config: map[string]string{"max_wal_senders": "1"}})
	c.Exec(t, "CREATE ROLE plain LOGIN")
	_, err := ConnectReplication(t.Context(), c.DSN()+" user=plain")
	wantHint(t, err, "give the role of the connection the attribute REPLICATION: ALTER ROLE name REPLICATION.")
	only := replication(t, c.DSN())
	_, err = ConnectReplication(t.Context(), c.DSN())
	wantHint(t, err, "raise max_wal_senders and restart the server, or wait until a standby or another backup has ended.")
	if err := os.WriteFile(filepath.Join(c.DataDir, "pg_hba.conf"), []byte("local all all trust\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := only.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.WaitFor(t, senders, "0", 10*time.Second)
	c.Exec(t, "SELECT pg_reload_conf()")
	for range 100 { // the postmaster reads the file after the answer, and a sender ends after it was closed
		var again *ReplicationConn
		if again, err = ConnectReplication(t.Context(), c.DSN()); err == nil {
			err = again.Close(t.Context())
		} else if strings.Contains(err.Error(), "pg_hba.conf") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	wantHint(t, err, "let the role make replication connections: add a line for the database replication to pg_hba.conf and reload the server.")
}

func wantHint(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || hint.Of(err) != want {
		t.Errorf("error %v with hint %q, want hint %q", err, hint.Of(err), want)
	}
}
