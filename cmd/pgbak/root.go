package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/internal/hint"
)

const defaultConfigPath = "/etc/pgbak/pgbak.yaml"

// app is one run of the program: its surroundings and its global flags.
type app struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	clock          func() time.Time
	// directory is the working directory; PostgreSQL runs archive_command and
	// restore_command in the data directory.
	directory string

	flags globalFlags
	log   *slog.Logger
	// command is the name of the command that runs; it decides for how long a
	// repository is tried again.
	command string
	// counters are those of every store that was opened, for logCounters.
	counting sync.Mutex
	counters []counter
	// began says that the command line was understood: an error before that
	// is one of usage.
	began bool
}

// globalFlags hold what was given as flags; "" and 0 are "not given", and then
// the environment and the configuration are asked.
type globalFlags struct {
	config, stanza, repository string
	processes                  int
	logLevel, logFormat        string
}

func (a *app) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "pgbak",
		Short: "Backup, restore and point-in-time recovery for PostgreSQL",
		Long: `pgbak takes base backups of PostgreSQL 13 to 18, archives WAL, and restores a
cluster to any moment between.

A setting comes from its flag, else from its PGBAK_ variable, else from the
configuration file. Results go to standard output, messages to standard error.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.openLog(); err != nil {
				return err
			}
			a.began, a.command = true, cmd.Name()
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			// An archive_command that lost its command must not look like success.
			return noCommand(cmd)
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetHelpCommand(a.helpCommand())
	a.log = slog.New(slog.DiscardHandler)
	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.StringVar(&a.flags.config, "config", "", "configuration `FILE` (PGBAK_CONFIG; default "+defaultConfigPath+")")
	flags.StringVar(&a.flags.stanza, "stanza", "", "`NAME` of the stanza (PGBAK_STANZA; may be left out when one is configured)")
	flags.StringVar(&a.flags.repository, "repo", "", "`NAME` of the repository (PGBAK_REPO; all means every one; default: the first for backup, else all)")
	flags.IntVar(&a.flags.processes, "processes", 0, "`NUMBER` of parallel workers, 1 to 1024 (PGBAK_PROCESSES; default: as configured, else the CPUs this process may use)")
	flags.StringVar(&a.flags.logLevel, "log-level", "", "least `LEVEL` of messages: debug, info, warn or error (PGBAK_LOG_LEVEL; default info)")
	flags.StringVar(&a.flags.logFormat, "log-format", "", "`FORMAT` of messages: text or json (PGBAK_LOG_FORMAT; default text)")
	root.AddCommand(
		a.initCommand(), a.checkCommand(), a.backupCommand(), a.archivePushCommand(), a.archiveGetCommand(), a.archivePrefetchCommand(),
		a.archiveReceiveCommand(), a.agentCommand(), a.restoreCommand(), a.infoCommand(), a.ledgerCommand(), a.repoCommand(), a.versionCommand(),
	)
	return root
}

func noCommand(cmd *cobra.Command) error {
	return &usageError{err: hint.Wrap(errors.New("no command was given"), "%s --help lists the commands.", cmd.CommandPath()), command: cmd.CommandPath()}
}

// helpCommand is cobra's, but for topics that do not exist, which are errors.
func (a *app) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Explain a command", Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("unknown command %q", rest[0])
			}
			if err != nil {
				return &usageError{err: err, command: cmd.Root().CommandPath()}
			}
			return topic.Help()
		},
	}
}

// setting is the flag's value, else the variable's, else fallback.
func (a *app) setting(flag, variable, fallback string) string {
	if flag != "" {
		return flag
	}
	if v := a.getenv(variable); v != "" {
		return v
	}
	return fallback
}

func (a *app) openLog() error {
	var level slog.Level
	name := a.setting(a.flags.logLevel, "PGBAK_LOG_LEVEL", "info")
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, name) {
		return fmt.Errorf("log level %q is unknown: use debug, info, warn or error", name)
	}
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return fmt.Errorf("log level: %w", err)
	}
	options := &slog.HandlerOptions{Level: level}
	switch format := a.setting(a.flags.logFormat, "PGBAK_LOG_FORMAT", "text"); format {
	case "text":
		a.log = slog.New(slog.NewTextHandler(a.stderr, options))
	case "json":
		a.log = slog.New(slog.NewJSONHandler(a.stderr, options))
	default:
		return fmt.Errorf("log format %q is unknown: use text or json", format)
	}
	return nil
}

// configPath is absolute, because restore writes it into the settings of
// a server that runs elsewhere.
func (a *app) configPath() (string, error) {
	path := a.setting(a.flags.config, "PGBAK_CONFIG", defaultConfigPath)
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("configuration %s: %w", path, err)
	}
	return absolute, nil
}

func (a *app) loadConfig() (*config, error) {
	path, err := a.configPath()
	if err != nil {
		return nil, err
	}
	return readConfig(path)
}

// processes is how many workers a command may run.
func (a *app) processes(c *config) (int, error) {
	n := a.flags.processes
	if text := a.getenv("PGBAK_PROCESSES"); n == 0 && text != "" {
		v, err := strconv.Atoi(text)
		if err != nil {
			return 0, &configError{err: fmt.Errorf("PGBAK_PROCESSES %q is not a number", text)}
		}
		n = v
	}
	if n == 0 && c.Processes != nil {
		n = *c.Processes
	}
	if n == 0 {
		n = runtime.GOMAXPROCS(0)
	}
	if err := checkProcesses(n); err != nil {
		return 0, &configError{err: err}
	}
	return n, nil
}

// occasion is what decides, besides the error, about the exit code.
func (a *app) occasion(command string, args []string) occasion {
	// When the command line was not understood, cobra may not know which
	// command was meant; the word alone is enough to keep a mistyped
	// restore_command from looking like the end of WAL.
	if command == "pgbak" && slices.Contains(args, archiveGetName) {
		command = archiveGetName
	}
	o := occasion{command: command}
	if command == archiveGetName {
		_, err := os.Stat(filepath.Join(a.directory, "standby.signal"))
		o.standby = err == nil || slices.ContainsFunc(args, func(arg string) bool {
			return arg == "--standby" || strings.HasPrefix(arg, "--standby=") && arg != "--standby=false"
		})
	}
	return o
}
