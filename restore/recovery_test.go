package restore

import (
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/repo"
)

func TestRecoverySettings(t *testing.T) {
	for _, c := range []struct {
		title   string
		target  TargetPlan
		archive bool
		old     string
		want    []string // lines, in this order
	}{
		{title: "latest: no target", target: TargetPlan{Type: TargetLatest, Timeline: "latest"},
			want: []string{"restore_command = 'get ''x'' %f'", "recovery_target = ''", "recovery_target_lsn = ''", "recovery_target_name = ''",
				"recovery_target_time = ''", "recovery_target_xid = ''", "recovery_target_timeline = 'latest'"}},
		{title: "immediate", target: TargetPlan{Type: TargetImmediate, Timeline: "current", Action: "promote"},
			want: []string{"restore_command = 'get ''x'' %f'", "recovery_target_lsn = ''", "recovery_target_name = ''", "recovery_target_time = ''", "recovery_target_xid = ''",
				"recovery_target = 'immediate'", "recovery_target_inclusive = 'on'", "recovery_target_timeline = 'current'", "recovery_target_action = 'promote'"}},
		{title: "time: the target comes after those that are set to nothing", target: TargetPlan{Type: TargetTime, Value: "2026-11-20 12:34:56+00", Exclusive: true, Timeline: "3"},
			want: []string{"restore_command = 'get ''x'' %f'", "recovery_target = ''", "recovery_target_lsn = ''", "recovery_target_name = ''", "recovery_target_xid = ''",
				"recovery_target_time = '2026-11-20 12:34:56+00'", "recovery_target_inclusive = 'off'", "recovery_target_timeline = '3'"}},
		{title: "names are quoted", target: TargetPlan{Type: TargetName, Value: `it's C:\temp`, Timeline: "1"},
			want: []string{"restore_command = 'get ''x'' %f'", "recovery_target = ''", "recovery_target_lsn = ''", "recovery_target_time = ''", "recovery_target_xid = ''",
				`recovery_target_name = 'it''s C:\\temp'`, "recovery_target_inclusive = 'on'", "recovery_target_timeline = '1'"}},
		{title: "archiving off", target: TargetPlan{Type: TargetLatest, Timeline: "latest"}, archive: true,
			old: "archive_mode = on\n",
			want: []string{"# before the restore: archive_mode = on", "restore_command = 'get ''x'' %f'", "recovery_target = ''", "recovery_target_lsn = ''", "recovery_target_name = ''",
				"recovery_target_time = ''", "recovery_target_xid = ''", "recovery_target_timeline = 'latest'", "archive_mode = 'off'"}},
		{title: "old recovery settings are taken out of force, others stay", target: TargetPlan{Type: TargetLatest, Timeline: "latest"},
			old: "# Do not edit\nwork_mem = '1MB'\nrestore_command = 'old'\n  RECOVERY_TARGET_XID '5'\nrecovery_target_action=promote\nrecovery_min_apply_delay = 1\nrestore_commands = x\nlast = 'no end of line'",
			want: []string{"# Do not edit", "work_mem = '1MB'", "# before the restore: restore_command = 'old'", "# before the restore:   RECOVERY_TARGET_XID '5'",
				"# before the restore: recovery_target_action=promote", "recovery_min_apply_delay = 1", "restore_commands = x", "last = 'no end of line'",
				"restore_command = 'get ''x'' %f'", "recovery_target = ''", "recovery_target_lsn = ''", "recovery_target_name = ''", "recovery_target_time = ''", "recovery_target_xid = ''",
				"recovery_target_timeline = 'latest'"}},
	} {
		t.Run(c.title, func(t *testing.T) {
			p := &Plan{Target: c.target, Backup: repo.BackupHeader{Label: first}}
			o := Options{RestoreCommand: "get 'x' %f", ArchiveModeOff: c.archive}
			got := string(recoverySettings(p, o, []byte(c.old), time.Date(2026, 11, 20, 12, 0, 0, 5, time.UTC)))
			own := "# written by pgbak restore of backup " + first + " at 2026-11-20 12:00:00+00\n"
			if !strings.Contains(got, own) {
				t.Errorf("%q is missing", own)
			}
			if got = strings.Replace(got, own, "", 1); got != strings.Join(c.want, "\n")+"\n" {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(c.want, "\n"))
			}
		})
	}
}
