package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/repo"
)

// What is proved before a backup is called one.

// checkTablespaces proves that the directory of every tablespace was copied
// that was there from start to stop: seen from this host a location can be an
// empty mount point, or the volume may not be mounted at all.
func (r *localFiles) checkTablespaces(ctx context.Context) error {
	now, err := r.conn.Tablespaces(ctx)
	if err != nil {
		return err
	}
	for _, t := range now {
		atStart := slices.ContainsFunc(r.header.Tablespaces, func(s repo.Tablespace) bool { return s.OID == t.OID })
		if atStart && !r.walker.tablespaces[fmt.Sprint(t.OID)] {
			return hint.Wrap(fmt.Errorf("tablespace %s (pg_tblspc/%d, at %s) has no directory %s as seen from here", t.Name, t.OID, t.Location, r.walker.version),
				"run the backup where every tablespace of the cluster is mounted at its location.")
		}
	}
	return nil
}

// checkDatabases refuses a backup during which a database was moved to another
// tablespace. WAL says of that only that the directory is to be copied again, and
// recovery would copy what is left of it in the backup: nothing, if the copy came
// to the old place after it was removed and to the new one before it was filled.
// The server would come up with an empty database, as from any base backup.
func (r *run) checkDatabases(ctx context.Context) error {
	now, err := r.conn.Databases(ctx)
	if err != nil {
		return err
	}
	for _, d := range now {
		if slices.ContainsFunc(r.databases, func(old server.Database) bool { return old.OID == d.OID && old.Tablespace != d.Tablespace }) {
			return hint.Wrap(fmt.Errorf("database %s was moved to another tablespace during the backup", d.Name),
				"take the backup again; recovery of this one could lose the database.")
		}
	}
	return nil
}

// checkLabel compares what the server writes into backup_label with what it
// said before: recovery will begin where the label says.
func (r *run) checkLabel(result server.StopResult) error {
	label, err := postgres.ParseBackupLabel([]byte(result.LabelFile))
	if err != nil {
		return fmt.Errorf("backup_label from the server: %w", err)
	}
	if label.Start != r.header.Start.LSN || label.Timeline != r.header.Timeline || result.LSN <= label.Start {
		return fmt.Errorf("backup_label from the server starts at %s on timeline %d and the backup ends at %s, but it began at %s on timeline %d",
			label.Start, label.Timeline, result.LSN, r.header.Start.LSN, r.header.Timeline)
	}
	return nil
}

// neededWAL are the segments from start to stop.
func (r *run) neededWAL() []postgres.WALFile {
	return walFiles(r.identity, r.header.Timeline, r.header.Start.LSN, r.header.Stop.LSN)
}

// waitForWAL waits for every segment that recovery of these backups needs.
func (r *run) waitForWAL(ctx context.Context) error {
	return r.waitFor(ctx, "after the copy", r.neededWAL())
}

// waitFor waits in all repositories at once: the archiver serves them at once too.
func (r *run) waitFor(ctx context.Context, when string, files []postgres.WALFile) error {
	return r.to.together(ctx, func(d *destination) error {
		err := readiness.WaitForWAL(d.ctx, d.Stanza, d.identity, files, readiness.WaitOptions{
			Timeout: r.o.ArchiveTimeout, Clock: r.o.Clock,
			Archiver: func(ctx context.Context) (string, error) {
				r.session.Lock()
				defer r.session.Unlock()
				s, err := r.writer().ArchiverStatus(ctx)
				return s.String(), err
			},
		})
		if err != nil {
			return fmt.Errorf("%s: %w", when, err)
		}
		return nil
	})
}

// maxScanned bounds the segments that are looked into record by record: the
// scanner wants a segment as a whole.
const maxScanned = 64 << 20

// fewSegments are read back whatever it costs: some requests are cheap next to
// a backup that is none. Most backups of a quiet cluster need no more.
const fewSegments = 8

// proveWAL reads the WAL that the backup needs back from each repository. That
// a name is there proves little: the object can be torn, or another server
// that is a copy of this one can have archived its own segment first. So the
// records must form one chain from start to stop, and a segment that the
// server still has must be the same.
//
// Where reads are not cheap and there are many segments, only the first and
// the last are read. One repository comes after the other: each needs the
// memory of two segments.
func (r *run) proveWAL(ctx context.Context) error {
	return r.to.each(ctx, func(_ int, d *destination) error {
		cheap := d.Stanza.Repository().Store().Properties().CheapReads
		return r.proveWALIn(d, segmentsToProve(r.neededWAL(), cheap))
	})
}

func segmentsToProve(needed []postgres.WALFile, cheap bool) []postgres.WALFile {
	if cheap || len(needed) <= fewSegments {
		return needed
	}
	return []postgres.WALFile{needed[0], needed[len(needed)-1]}
}

func (r *run) proveWALIn(d *destination, files []postgres.WALFile) error {
	last := files[len(files)-1]
	chained := r.identity.SegmentSize <= maxScanned && last.Segment-files[0].Segment == uint64(len(files)-1)
	scanner := postgres.NewWALScanner(r.identity.Major, r.identity.SegmentSize, r.control.WALBlockSize)
	for _, f := range files {
		data, err := r.readBack(d, f, chained)
		if err != nil {
			return err
		}
		if !chained {
			continue
		}
		err = scanner.Scan(f.Start(r.identity.SegmentSize), f.Timeline, data, func(postgres.WALEvent) error { return nil })
		if err != nil {
			return r.unusableWAL(d, f, err)
		}
	}
	if chained && scanner.End() < r.header.Stop.LSN {
		return r.unusableWAL(d, last, fmt.Errorf("its records end at %s, before the end of the backup at %s", scanner.End(), r.header.Stop.LSN))
	}
	return nil
}

func (r *run) unusableWAL(d *destination, f postgres.WALFile, err error) error {
	return hint.Wrap(fmt.Errorf("WAL segment %s in the repository is not what this server wrote: %w", f.Name(r.identity.SegmentSize), err),
		"another server that is a copy of this one may be archiving to stanza %s: look for it, stop its archiving, move the foreign segments away, and take the backup again.", d.Stanza.Name())
}

// readBack reads a segment from the repository, which verifies it, and compares
// it with the server's own file as long as that is there. The content is given
// only where it is wanted.
func (r *run) readBack(d *destination, f postgres.WALFile, wanted bool) ([]byte, error) {
	in, err := d.Stanza.OpenWAL(d.ctx, d.identity, f)
	if err != nil {
		return nil, fmt.Errorf("read back WAL: %w", err)
	}
	defer in.Close()
	if !wanted {
		_, err := io.Copy(io.Discard, in)
		return nil, err
	}
	data := bytes.NewBuffer(make([]byte, 0, r.identity.SegmentSize+bytes.MinRead))
	if _, err := data.ReadFrom(io.LimitReader(in, r.identity.SegmentSize+1)); err != nil {
		return nil, fmt.Errorf("read back WAL: %w", err)
	}
	if r.o.From == FromStream {
		return data.Bytes(), nil // the server's file cannot be reached
	}
	name := filepath.Join(r.o.PGData, "pg_wal", f.Name(r.identity.SegmentSize))
	own, err := os.ReadFile(name)
	if err != nil {
		return data.Bytes(), ignoreAbsent(err)
	}
	// The server may have recycled the file while it was read: then its name is gone.
	if _, err := os.Stat(name); err == nil && !bytes.Equal(r.comparable(f, own), r.comparable(f, data.Bytes())) {
		return nil, r.unusableWAL(d, f, errors.New("the server's own file has other content"))
	}
	return data.Bytes(), nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("compare with the server's WAL: %w", err)
}
