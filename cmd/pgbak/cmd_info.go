package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
)

func (a *app) infoCommand() *cobra.Command {
	var output outputFlag
	var set string
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show backups and archived WAL",
		Long: `info shows for every configured stanza (or the one that is named) and every
repository: the status, the identities, the archived WAL with its gaps and
conflicts, and the backups with how far recovery gets from them. A backup without the WAL from its start to its stop, or with a damaged
manifest, is an error of its stanza. It ends with 0 if every status is ok; else
with the code of the first that is not.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			label := repo.Label("")
			if set != "" {
				var err error
				if label, err = repo.ParseLabel(set); err != nil {
					return &usageError{err: err, command: cmd.CommandPath()}
				}
			}
			return a.info(cmd.Context(), output, label)
		},
	}
	output.add(cmd)
	cmd.Flags().StringVar(&set, "set", "", "show only the backup with this `LABEL`, in detail")
	return cmd
}

// info prints what the selected repositories hold. A repository that cannot be
// read is a status of its stanzas, so that one broken repository does not hide
// the others; the first such error decides about the exit code.
func (a *app) info(ctx context.Context, output outputFlag, set repo.Label) error {
	stanzas, repositories, err := a.selectedForInfo()
	if err != nil {
		return err
	}
	result := []stanzaInfo{}
	found := set == ""
	var worst error
	for _, s := range stanzas {
		info := stanzaInfo{Name: s.Name, Repositories: []repositoryInfo{}}
		for _, rc := range repositories {
			held, err := a.holdings(ctx, rc, s.Name)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			r, err := newRepositoryInfo(rc, held, err)
			if set != "" {
				found = r.keepOnly(set) || found
			}
			info.Repositories = append(info.Repositories, r)
			if err != nil && worst == nil {
				worst = hint.Wrap(fmt.Errorf("stanza %s: %w", s.Name, err), "%s", hint.Of(err))
			}
		}
		info.Status = firstNotOK(info.Repositories)
		result = append(result, info)
	}
	if !found && worst == nil {
		// Otherwise it may be where nobody can look now.
		return hint.Wrap(fmt.Errorf("%s: %w", set, repo.ErrNoBackup), "'pgbak info' lists the backups.")
	}
	text := func() string { return infoText(result, set != "") }
	if err := output.print(a, result, text); err != nil {
		return err
	}
	return worst
}

// selectedForInfo differs from selected in that no stanza named means all.
func (a *app) selectedForInfo() ([]stanzaConfig, []repositoryConfig, error) {
	c, err := a.loadConfig()
	if err != nil {
		return nil, nil, err
	}
	stanzas := c.Stanzas
	if name := a.setting(a.flags.stanza, "PGBAK_STANZA", ""); name != "" {
		s, err := c.stanza(name)
		if err != nil {
			return nil, nil, err
		}
		stanzas = []stanzaConfig{s}
	}
	repositories, err := c.repositories(a.repositoryName())
	return stanzas, repositories, err
}

// holdings are what a repository holds of a stanza, and how it is encrypted.
type holdings struct {
	catalog    *repo.Catalog
	ledger     *archive.Ledger
	encryption string
}

func (a *app) holdings(ctx context.Context, rc repositoryConfig, stanza string) (holdings, error) {
	r, err := a.openRepository(ctx, rc, toRead)
	if err != nil {
		return holdings{}, err
	}
	h := holdings{encryption: r.Config().Encryption}
	s, err := r.Stanza(ctx, stanza)
	if err == nil {
		h.catalog, err = s.Catalog(ctx)
	}
	if err != nil {
		return h, fmt.Errorf("repository %q: %w", rc.Name, err)
	}
	h.ledger = a.readLedger(ctx, s, h.catalog, 0)
	return h, nil
}

// keepOnly leaves one backup and tells whether it is there. The status stays
// that of the whole.
func (r *repositoryInfo) keepOnly(label repo.Label) bool {
	r.Backups = slices.DeleteFunc(r.Backups, func(b backupInfo) bool { return b.Label != label })
	return len(r.Backups) > 0
}
