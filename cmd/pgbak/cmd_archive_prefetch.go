package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// archivePrefetchCommand is what archive-get starts beside itself. It is a
// command of its own, and no flag of archive-get, because its exit codes tell nothing to
// PostgreSQL.
func (a *app) archivePrefetchCommand() *cobra.Command {
	identity := 0
	cmd := &cobra.Command{
		Use: archivePrefetchName + " DIRECTORY", Short: "Fetch ahead what recovery of a data directory will ask for", Hidden: true,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.archivePrefetch(cmd.Context(), identity, args[0])
		},
	}
	cmd.Flags().IntVar(&identity, "identity", 0, "as of archive-get")
	return cmd
}

func (a *app) archivePrefetch(ctx context.Context, identity int, directory string) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	control, err := readControl(directory)
	if err != nil {
		return err
	}
	r := recovering{selection: sel, asked: a.repositoryName(), identity: identity, directory: directory, instance: instanceOf(directory), control: control}
	queue, settings, err := a.prefetchQueue(r)
	if err != nil {
		return err
	}
	// Nobody reads the log of this process: the next archive-get repeats it in its own.
	note := func(err error) {
		text := oneLine(err.Error())
		a.log.Warn("fetching ahead", "error", text)
		if err := queue.Complain(text); err != nil {
			a.log.Warn("fetching ahead", "error", oneLine(err.Error()))
		}
	}
	p, err := archive.NewPrefetcher(queue, r.workersAhead(settings), note, a.sources(r)...)
	if err == nil {
		err = p.Run(ctx)
	}
	if err != nil {
		note(err)
	}
	return err
}

const (
	// minPrefetchWorkers keeps one processor from waiting for the disk alone.
	minPrefetchWorkers = 2
	// farPrefetchWorkers is as many where a segment is waited for longer than it is
	// worked on.
	farPrefetchWorkers = 8
)

// workersAhead is how many segments are fetched ahead at one time.
func (r recovering) workersAhead(settings archiveSettings) int {
	if settings.processes != 0 {
		return settings.processes
	}
	for _, rc := range r.repositories {
		if p, err := rc.place(); err == nil && p.directory == "" {
			return max(r.processes, farPrefetchWorkers)
		}
	}
	return max(r.processes, minPrefetchWorkers)
}

// recovering is a server that calls archive-get, and how it calls it.
type recovering struct {
	selection
	asked     string // the repository that was named; "" is all
	identity  int    // that was named; 0 is none
	directory string // the data directory, absolute
	instance  string // of it, as in archive.Recovery
	control   *postgres.Control
}

// prefetchQueue opens the queue of a recovery in the spool of its stanza.
func (a *app) prefetchQueue(r recovering) (*archive.PrefetchQueue, archiveSettings, error) {
	settings, err := r.config.Archive.parse()
	if err != nil {
		return nil, settings, &configError{err}
	}
	if isBelow(settings.spool, r.directory) {
		return nil, settings, &configError{fmt.Errorf("archive.spool %s is in the data directory %s: it must be outside", settings.spool, r.directory)}
	}
	spool, err := archive.OpenSpool(settings.spool, r.stanza.Name)
	if err != nil {
		return nil, settings, err
	}
	queue, err := archive.NewPrefetchQueue(spool, archive.Recovery{
		Directory: r.directory, Instance: r.instance, SystemID: r.control.SystemID, Major: r.control.Major, SegmentSize: r.control.WALSegmentSize,
		Sources: r.sourcesText(),
	}, settings.prefetch, a.clock)
	return queue, settings, err
}

// instanceOf tells a data directory from another one that stood in its place
// before, by the file that each has from its beginning and that no server changes.
func instanceOf(directory string) string {
	info, err := os.Lstat(filepath.Join(directory, "PG_VERSION"))
	if err != nil {
		return ""
	}
	st, isUnix := info.Sys().(*syscall.Stat_t)
	if !isUnix {
		return ""
	}
	return fmt.Sprintf("%d %d %d.%09d", st.Dev, st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
}

// sourcesText differs when other repositories, or another part of them, would be asked.
func (r recovering) sourcesText() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %d", r.stanza.Name, r.identity)
	for _, rc := range r.repositories {
		c := rc.s3()
		fmt.Fprintf(&b, " %q %q %q %q", rc.Name, rc.URL, c.Endpoint, c.Region)
	}
	return b.String()
}

// prefetching puts the queue before the repositories.
func (a *app) prefetching(ctx context.Context, r recovering, sources []archive.Source, getter *archive.Getter) (*archive.PrefetchGetter, error) {
	queue, settings, err := a.prefetchQueue(r)
	if err != nil {
		return nil, err
	}
	return archive.NewPrefetchGetter(getter, queue, func() error {
		isInit, err := postmasterIsInit(r.directory)
		if err != nil {
			return err
		}
		if isInit {
			return a.fillQueue(ctx, queue, r.workersAhead(settings), sources)
		}
		return a.startPrefetch(r)
	}), nil
}

// fillPatience is for how long a segment that is there is held back while the next ones
// are fetched.
const fillPatience = 10 * time.Second

// fillQueue fetches ahead in this process, while PostgreSQL waits: a part of what a
// process beside it would gain, for where there can be none.
func (a *app) fillQueue(ctx context.Context, queue *archive.PrefetchQueue, workers int, sources []archive.Source) error {
	a.log.Debug("fetching ahead before the end of this call: PostgreSQL is process 1, and would take the end of a process that it did not start for a crash")
	ctx, cancel := context.WithTimeout(ctx, fillPatience)
	defer cancel()
	note := func(err error) { a.log.Warn("fetching ahead", "error", oneLine(err.Error())) }
	p, err := archive.NewPrefetcher(queue, workers, note, sources...)
	if err != nil {
		return err
	}
	return p.Fill(ctx)
}

// openedOnce are sources that stay open, for who asks them again in the same process.
func openedOnce(sources []archive.Source) []archive.Source {
	var kept []archive.Source
	for _, s := range sources {
		var mu sync.Mutex
		var stanza *repo.Stanza
		var ids []repo.Identity
		kept = append(kept, archive.Source{Name: s.Name, Open: func(ctx context.Context) (*repo.Stanza, []repo.Identity, error) {
			mu.Lock()
			defer mu.Unlock()
			if stanza != nil {
				return stanza, ids, nil
			}
			var err error
			stanza, ids, err = s.Open(ctx)
			return stanza, ids, err
		}})
	}
	return kept
}

// startPrefetch starts archive-prefetch as a process that stays when this one
// ends: with a session of its own, so that no signal to PostgreSQL's processes ends it, and
// with none of the files that PostgreSQL has open, whose disk or log it would keep in use.
func (a *app) startPrefetch(r recovering) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find out where pgbak is installed: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	words := []string{program, "--config", r.config.path, "--stanza", r.stanza.Name}
	if r.asked != "" {
		words = append(words, "--repo", r.asked)
	}
	words = append(words, archivePrefetchName, "--identity", strconv.Itoa(r.identity), r.directory)
	closeInherited()
	process, err := os.StartProcess(program, words, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", archivePrefetchName, err)
	}
	a.log.Debug("fetching ahead", "process", process.Pid)
	return process.Release()
}

// postmasterIsInit tells whether the server of a data directory is process 1, as
// in many containers. Then it inherits every process whose parent has ended, and
// restarts itself when one of them ends by a signal or with a status above 1
// (CleanupBackend), which nobody can promise.
func postmasterIsInit(directory string) (bool, error) {
	text, err := os.ReadFile(filepath.Join(directory, "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	first, _, _ := bytes.Cut(text, []byte("\n"))
	return string(bytes.TrimSpace(first)) == "1", err
}

// closeInherited lets no program that is started from here have the files that this one
// inherited: servers before 16 leave theirs open for restore_command.
func closeInherited() {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return // an odd host; then they stay open for a while
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}
