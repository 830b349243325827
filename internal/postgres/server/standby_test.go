package server

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

func TestReplayState(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			primary := pgtest.Start(t, pgtest.Options{Major: major})
			primary.Exec(t, "CREATE ROLE somebody LOGIN")
			standby := pgtest.StartStandby(t, primary)
			if s := must(connect(t, primary.DSN()).ReplayState(t.Context()))(t); s != (ReplayState{}) {
				t.Errorf("of a primary: %+v", s)
			}
			conn := connect(t, standby.DSN()+" user=somebody") // the last of a setting counts
			_, written, err := connect(t, primary.DSN()).CurrentWALFile(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			standby.WaitFor(t, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", written), "t", time.Minute)
			s := must(conn.ReplayState(t.Context()))(t)
			if s.Replayed < written || !s.InRecovery || s.Paused || !s.Receiving || s.Delay != 0 {
				t.Errorf("of a standby that has replayed %s: %+v", written, s)
			}
			standby.Exec(t, "ALTER SYSTEM SET recovery_min_apply_delay = '90s'")
			standby.Exec(t, "ALTER SYSTEM SET primary_conninfo = ''")
			standby.Exec(t, "SELECT pg_reload_conf()")
			standby.Exec(t, "SELECT pg_wal_replay_pause()")
			standby.WaitFor(t, "SELECT count(*) FROM pg_stat_wal_receiver", "0", time.Minute)
			if s := must(connect(t, standby.DSN()).ReplayState(t.Context()))(t); !s.Paused || s.Receiving || s.Delay != 90*time.Second {
				t.Errorf("of a standby that is paused, delayed and alone: %+v", s)
			}
		})
	}
}
