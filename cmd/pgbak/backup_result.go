package main

import (
	"fmt"
	"strings"

	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/repo"
)

// backupResult is the output of backup; docs/json.md describes it. There is one
// only if at least one repository has the backup.
type backupResult struct {
	// Backup is the first of Backups that succeeded.
	Backup   *backupInfo        `json:"backup"`
	Backups  []repositoryBackup `json:"backups"`
	Timings  backupTimings      `json:"timings"`
	Warnings []string           `json:"warnings"`
}

// backupTimings are in seconds.
type backupTimings struct {
	Waiting    float64 `json:"waiting-for-server"`
	Copying    float64 `json:"copying"`
	Committing float64 `json:"committing"`
	Total      float64 `json:"total"`
}

// repositoryBackup is the backup in one repository, or why there is none.
type repositoryBackup struct {
	Repository string      `json:"repository"`
	Backup     *backupInfo `json:"backup,omitempty"`
	Error      string      `json:"error,omitempty"`
}

// newBackupResult puts together what became of each selected repository.
func newBackupResult(outcomes []backupOutcome, result backup.Result) backupResult {
	// The run has logged its warnings already, each when it came up.
	out := backupResult{Backups: []repositoryBackup{}, Warnings: append([]string{}, result.Warnings...)}
	out.Timings = backupTimings{Waiting: result.Timings.Waiting.Seconds(), Copying: result.Timings.Copying.Seconds(),
		Committing: result.Timings.Committing.Seconds(), Total: result.Duration.Seconds()}
	ran := result.Backups
	for _, o := range outcomes {
		entry := repositoryBackup{Repository: o.repository.Name}
		err := o.err
		if err == nil && len(ran) > 0 {
			var b backup.RepositoryResult
			b, ran = ran[0], ran[1:]
			if err = b.Err; err == nil {
				// A backup that has succeeded has waited for its WAL.
				info := newBackupInfo(repo.BackupInfo{Label: b.Header.Label, Header: b.Header}, true)
				entry.Backup = &info
			}
		}
		if err != nil {
			entry.Error = oneLine(err.Error())
		}
		if out.Backup == nil {
			out.Backup = entry.Backup
		}
		out.Backups = append(out.Backups, entry)
	}
	return out
}

func (r backupResult) text() string {
	var b strings.Builder
	for _, entry := range r.Backups {
		where := ""
		if len(r.Backups) > 1 {
			where = " in repository " + entry.Repository
		}
		if entry.Backup == nil {
			fmt.Fprintf(&b, "no backup%s: %s\n", where, entry.Error)
			continue
		}
		i := entry.Backup
		if i.Source == string(backup.FromStandby) {
			where += " from a standby"
		}
		fmt.Fprintf(&b, "%s backup %s%s: %s in %d files, %s added to the repository (%s with what it shares), %s\n", i.Type, i.Label, where,
			sizeText(i.DatabaseSize), i.Files, sizeText(i.AddedSize), sizeText(i.StoredSize), durationText(seconds(i.Seconds)))
		for _, line := range i.wayLines() {
			fmt.Fprintf(&b, "changes: %s\n", line)
		}
		if i.PageErrorCount > 0 {
			fmt.Fprintf(&b, "page errors: %d ('pgbak info --set %s' lists them)\n", i.PageErrorCount, i.Label)
		}
	}
	t := r.Timings
	fmt.Fprintf(&b, "time: %s, of which %s waiting for the server, %s copying, %s committing\n",
		durationText(seconds(t.Total)), durationText(seconds(t.Waiting)), durationText(seconds(t.Copying)), durationText(seconds(t.Committing)))
	return b.String()
}
