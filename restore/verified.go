package restore

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// writeManifest writes the backup_manifest by which pg_verifybackup and a later
// incremental pg_basebackup know the files. It lists what the backup recorded
// and the restore verified, not what lies on the disk, so that it also tells
// about damage that happens between here and there. Of a file of which the backup
// read some pages only it recorded no checksum: there it is that of the verified
// content that was written.
func (r *run) writeManifest(ctx context.Context) error {
	in, out := io.Pipe()
	go func() { out.CloseWithError(r.streamManifest(ctx, out)) }()
	err := r.writeOwn(manifestFile, in)
	_ = in.Close() // ends the other side if writing failed
	return err
}

func (r *run) streamManifest(ctx context.Context, out io.Writer) error {
	h := r.backup.Header()
	buffered := bufio.NewWriterSize(out, 256<<10)
	w := postgres.NewBackupManifestWriter(buffered, postgres.BackupManifestOptions{
		Version: manifestVersion(h.Identity.Major), SystemID: h.Identity.SystemID})
	for f, err := range r.backup.Files(ctx) {
		if err != nil {
			return fmt.Errorf("list the files of backup %s: %w", h.Label, err)
		}
		if f.Type != repo.TypeFile || left(f.Path) || f.Path == ownSettingsFile {
			continue
		}
		entry := postgres.BackupManifestFile{Path: f.Path, Size: f.Size, ModTime: f.ModTime}
		if sum, written := r.sums[f.Path]; f.HasCRC {
			entry.CRC32C = &f.CRC32C
		} else if written {
			entry.CRC32C = &sum
		}
		if err := w.File(entry); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	if err := w.Finish([]postgres.WALRange{{Timeline: h.Timeline, Start: h.Start.LSN, End: h.Stop.LSN}}); err != nil {
		return err
	}
	return buffered.Flush()
}

// manifestVersion is the version of backup_manifest that the tools of a major
// expect: 17 added the system identifier.
func manifestVersion(major int) int {
	if major >= 17 {
		return 2
	}
	return 1
}
