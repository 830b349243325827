package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/restore"
)

// restoreFlags are the flags of restore as they were given.
type restoreFlags struct {
	output                      outputFlag
	targetDir, typ, target      string
	exclusive                   bool
	timeline, action, set       string
	tablespaces, links          []string
	allTablespaces, archiveMode string
	allLinks, planOnly          bool
	received                    string
}

func (a *app) restoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Restore a cluster to a moment of its past",
		Long: `restore asks the repositories in their order and takes the first one that leads
to the target. It chooses the backup, proves that every WAL file needed is in
that repository, writes the cluster into an empty directory and configures
recovery. Start PostgreSQL on the directory afterwards: it fetches WAL by
archive-get and stops at the target.

Times carry a zone ('2026-11-20 12:34:56+00'); without one they are read in the
zone of this host, which the output names.`,
		Example: `  pgbak restore --target-dir /var/lib/postgresql/17/restored
  pgbak restore --target-dir /restored --type time --target '2026-11-20 12:34:56+00' --target-action promote`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.output.check(); err != nil {
				return err
			}
			return a.restore(cmd, f)
		},
	}
	f.add(cmd)
	return cmd
}

func (f *restoreFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.targetDir, "target-dir", "", "`DIRECTORY` to restore into; it must be empty or absent")
	flags.StringVar(&f.typ, "type", "latest", "`TYPE` of the target: latest, immediate, time, lsn, xid or name")
	flags.StringVar(&f.target, "target", "", "`VALUE` of the target for the types time, lsn, xid and name")
	flags.BoolVar(&f.exclusive, "target-exclusive", false, "stop just before the target instead of just after it")
	flags.StringVar(&f.timeline, "target-timeline", "", "`TIMELINE` to recover along: latest, current (that of the newest backup) or a number (default latest, unless that leaves out a newer backup)")
	flags.StringVar(&f.action, "target-action", "", "`ACTION` at the target: pause, promote or shutdown (default pause)")
	flags.StringVar(&f.set, "set", "", "`LABEL` of the backup (default: the newest that leads to the target)")
	flags.StringArrayVar(&f.tablespaces, "tablespace-map", nil, "restore a tablespace to another directory (`OID|NAME=DIRECTORY`; may be repeated)")
	flags.StringVar(&f.allTablespaces, "tablespace-map-all", "", "restore every tablespace below `DIRECTORY`")
	flags.StringArrayVar(&f.links, "link-map", nil, "restore a linked directory to this place (`PATH=DIRECTORY`; may be repeated)")
	flags.BoolVar(&f.allLinks, "link-all", false, "as root too, restore linked directories that --link-map does not name to where the backup recorded them")
	flags.StringVar(&f.archiveMode, "archive-mode", "preserve", "`MODE` of archiving after the restore: preserve or off")
	flags.StringVar(&f.received, "received", "", "`DIRECTORY` of an archive-receive that is stopped: WAL that is there and not in the repository is restored too")
	flags.BoolVar(&f.planOnly, "plan", false, "print what would be done, and do nothing")
	f.output.add(cmd)
}

func (a *app) restore(cmd *cobra.Command, f restoreFlags) error {
	o, notes, err := f.options()
	if err != nil {
		return &usageError{err: err, command: cmd.CommandPath()}
	}
	for _, n := range notes {
		a.log.Info(n)
	}
	sel, err := a.selected()
	if err != nil {
		return err
	}
	o.Processes, o.Log, o.Clock = sel.processes, a.log, a.clock
	if f.received != "" {
		if o.Received, err = received.OpenToRead(f.received); err != nil {
			return fmt.Errorf("%w: %w", restore.ErrUnreachable, err)
		}
		defer o.Received.Close()
	}
	source, err := a.chooseRepository(cmd.Context(), sel, o)
	if err != nil {
		return err
	}
	o.Stanza = source.stanza
	plan := source.plan
	a.log.Info("restoring from repository "+source.repository.Name, "location", plan.Repository, "backup", plan.Backup.Label)
	if f.planOnly {
		planned := planResult{plan, source.repository.Name}
		return f.output.print(a, planned, func() string { return source.text() + plan.String() })
	}
	asked := a.repositoryName()
	if source.alone {
		asked = source.repository.Name
		a.log.Warn("restore_command names this repository alone, because another one could not be read: WAL that only the other one has is not replayed",
			"repository", asked)
	}
	if o.RestoreCommand, err = restoreCommandSetting(sel, asked, plan.Backup.Identity); err != nil {
		return err
	}
	p := a.newProgress("restore")
	o.Progress = func(r restore.Progress) { p.show(r.Files, r.Bytes, r.BytesTotal) }
	result, err := restore.Execute(cmd.Context(), o, plan)
	p.end()
	if err != nil {
		return err
	}
	return f.output.print(a, restoreResult{result, source.repository.Name}, func() string { return source.text() + restoreText(result) })
}

// planResult and restoreResult are the output of restore; docs/json.md describes it.
type planResult struct {
	*restore.Plan
	RepositoryName string `json:"repository-name"`
}

type restoreResult struct {
	restore.Result
	RepositoryName string `json:"repository-name"`
}

func (s restoreSource) text() string {
	return fmt.Sprintf("from repository %s (%s)\n", s.repository.Name, s.plan.Repository)
}

// options turns the flags into what restore understands, and gives notes for
// the user on how the target was read.
func (f restoreFlags) options() (restore.Options, []string, error) {
	o := restore.Options{TablespaceMapAll: f.allTablespaces, LinkAll: f.allLinks}
	if f.targetDir == "" {
		return o, nil, errors.New("--target-dir is missing")
	}
	var err error
	if o.TargetDir, err = filepath.Abs(f.targetDir); err != nil {
		return o, nil, fmt.Errorf("--target-dir: %w", err)
	}
	var notes []string
	if o.Target, notes, err = restore.ParseTarget(f.typ, f.target, f.exclusive, f.timeline, f.action, time.Local); err != nil {
		return o, nil, err
	}
	if f.set != "" {
		if o.Set, err = repo.ParseLabel(f.set); err != nil {
			return o, nil, err
		}
	}
	if o.TablespaceMap, err = parseMap("--tablespace-map", f.tablespaces); err != nil {
		return o, nil, err
	}
	if o.LinkMap, err = parseMap("--link-map", f.links); err != nil {
		return o, nil, err
	}
	switch f.archiveMode {
	case "preserve":
	case "off":
		o.ArchiveModeOff = true
	default:
		return o, nil, fmt.Errorf("--archive-mode %q is unknown: use preserve or off", f.archiveMode)
	}
	return o, notes, nil
}

// parseMap reads repeated KEY=DIRECTORY. A directory may hold '=', a key not.
func parseMap(flag string, pairs []string) (map[string]string, error) {
	m := map[string]string{}
	for _, pair := range pairs {
		key, dir, ok := strings.Cut(pair, "=")
		if !ok || key == "" || !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("%s %q is not of the form NAME=/DIRECTORY", flag, pair)
		}
		if _, twice := m[key]; twice {
			return nil, fmt.Errorf("%s names %q twice", flag, key)
		}
		m[key] = filepath.Clean(dir)
	}
	return m, nil
}

// crashGuard keeps a crash from looking like the end of WAL. A program in Go
// that crashes, for instance because it gets no memory or no thread, ends with
// 2, and so does a shell that cannot start a process; PostgreSQL takes 2 for
// "no such file". archive-get itself never ends with 2. The trap runs in both
// cases; every other status passes through it unchanged.
const crashGuard = `trap 'if [ $? -eq 2 ]; then [ -e standby.signal ] && exit 75; exit 200; fi' EXIT; `

// restoreCommandSetting is the restore_command of the restored server. It
// names everything in full, for the server has another working directory and
// another environment. All repositories are asked if repository is "" or "all".
func restoreCommandSetting(sel selection, repository string, id repo.Identity) (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find out where pgbak is installed: %w", err)
	}
	words := []string{program, "--config", sel.config.path, "--stanza", sel.stanza.Name}
	if repository != "" && repository != allRepositories {
		words = append(words, "--repo", repository)
	}
	for i, w := range words {
		// PostgreSQL replaces %f and %p, and makes one % of two.
		words[i] = strings.ReplaceAll(shellWord(w), "%", "%%")
	}
	return fmt.Sprintf("%s%s %s --identity %d ", crashGuard, strings.Join(words, " "), archiveGetName, id.Number) + `%f "%p"`, nil
}

// shellWord quotes a word for the shell where it needs it.
func shellWord(w string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%,", r)
	}
	if w != "" && strings.IndexFunc(w, func(r rune) bool { return !plain(r) }) < 0 {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// restoreText says what was done, and what is left for the user to do.
func restoreText(r restore.Result) string {
	var b strings.Builder
	b.WriteString(r.Plan.String())
	for _, w := range r.Warnings {
		if !slices.Contains(r.Plan.Warnings, w) {
			fmt.Fprintf(&b, "warning:     %s\n", w)
		}
	}
	fmt.Fprintf(&b, "restored:    %d files, %s in %s\n", r.Files, sizeText(r.Bytes), durationText(r.Duration))
	fmt.Fprintf(&b, "now start PostgreSQL %d on %s: it recovers to the target by itself\n", r.Plan.Backup.Identity.Major, r.Plan.TargetDir)
	return b.String()
}
