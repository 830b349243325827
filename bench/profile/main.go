// Command profile takes one full backup in its own process and writes down
// where the CPU time went, for go tool pprof. pgbak itself has no switch for
// that. bench/profile.sh runs it on the cluster of bench/run.sh.
//
//	profile -repository DIR -pgdata DIR -connection DSN -processes N -cpu FILE
//
// The repository and its stanza "main" must exist (pgbak init), unencrypted.
// Time in libzstd, which is C, shows as runtime.cgocall; nothing else of pgbak
// is C. A profile that could not be taken leaves no file.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"time"

	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/posix"
)

func main() {
	var (
		o          backup.Options
		repository = flag.String("repository", "", "`DIRECTORY` of the repository")
		cpu        = flag.String("cpu", "", "`FILE` that takes the profile")
	)
	flag.StringVar(&o.PGData, "pgdata", "", "data `DIRECTORY`")
	flag.StringVar(&o.Connection, "connection", "", "connection `STRING` of libpq")
	flag.IntVar(&o.Processes, "processes", 1, "`NUMBER` of workers")
	flag.Parse()
	if err := profiled(context.Background(), *repository, *cpu, o); err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
	}
}

// profiled takes the backup under the profiler.
func profiled(ctx context.Context, repository, cpu string, o backup.Options) error {
	store, err := posix.Open(repository)
	if err != nil {
		return err
	}
	r, err := repo.Open(ctx, store, repo.Options{Clock: time.Now})
	if err != nil {
		return err
	}
	s, err := r.Stanza(ctx, "main")
	if err != nil {
		return err
	}
	o.Repositories = []backup.Repository{{Name: "profiled", Stanza: s}}
	o.Clock, o.StartFast, o.ArchiveTimeout = time.Now, true, time.Minute
	file, err := os.Create(cpu + ".new")
	if err != nil {
		return err
	}
	defer file.Close()
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	result, err := backup.Run(ctx, o)
	pprof.StopCPUProfile()
	if err != nil {
		return err
	}
	fmt.Printf("full backup %s in %.2f s with %d processes\n", result.Backups[0].Header.Label, result.Duration.Seconds(), o.Processes)
	return os.Rename(cpu+".new", cpu)
}
