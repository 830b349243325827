package readiness

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/repo"
)

func TestStandbyProblems(t *testing.T) {
	for _, c := range []struct {
		title  string
		change func(standby, primary *server.Info)
		want   []string // parts of the problems, in order
		kind   error
	}{
		{"a standby and its primary that are ready have no problem", func(_, _ *server.Info) {}, nil, nil},
		{"a standby need not archive", func(s, _ *server.Info) {
			s.ArchiveMode, s.ArchiveCommand, s.FullPageWrites = "off", "(disabled)", false
		}, nil, nil},
		{"a primary whose data directory has another name is fine", func(_, p *server.Info) { p.DataDirectory = "/elsewhere" }, nil, nil},
		{"a standby of another cluster", func(s, _ *server.Info) { s.SystemID = 1 }, []string{"the server is the cluster with system identifier 1"}, repo.ErrIdentityMismatch},
		{"a primary of another cluster", func(_, p *server.Info) { p.SystemID = 1 }, []string{"on the primary: the server is the cluster with system identifier 1"}, repo.ErrIdentityMismatch},
		{"a primary of another major", func(_, p *server.Info) { p.Major = 16 }, []string{"on the primary: the server is PostgreSQL 16"}, repo.ErrIdentityMismatch},
		{"no standby", func(s, _ *server.Info) { s.InRecovery = false }, []string{"the server is not a standby"}, ErrNotReady},
		{"a primary that is a standby hides what it says of archiving", func(_, p *server.Info) { p.InRecovery, p.ArchiveMode = true, "off" }, []string{"in recovery itself"}, ErrNotReady},
		{"another data directory of the standby", func(s, _ *server.Info) { s.DataDirectory = "/other" }, []string{"data_directory is /other"}, ErrNotReady},
		{"a standby that archives is fine", func(s, _ *server.Info) { s.ArchiveMode = "always" }, nil, nil},
		{"a primary that does not archive", func(_, p *server.Info) { p.ArchiveMode = "off" }, []string{"on the primary: archive_mode is off"}, ErrNotReady},
		{"several problems of the primary", func(_, p *server.Info) { p.WALLevel, p.ArchiveCommand, p.FullPageWrites = "minimal", "", false },
			[]string{"on the primary: wal_level is minimal", "on the primary: archive_command is not set", "on the primary: full_page_writes is off"}, ErrNotReady},
	} {
		t.Run(c.title, func(t *testing.T) {
			standby, id := readyServer()
			standby.FullPageWrites = true
			primary := standby
			standby.InRecovery = true
			c.change(&standby, &primary)
			got := StandbyProblems(standby, primary, "/data", id)
			if len(got) != len(c.want) {
				t.Fatalf("problems %v, want %d", got, len(c.want))
			}
			for i, p := range got {
				if !strings.Contains(p.Error.Error(), c.want[i]) || !errors.Is(p.Error, c.kind) || !p.Fatal || hint.Of(p.Error) == "" {
					t.Errorf("problem %q (fatal %t, hint %q), want one with %q that is %q", p.Error, p.Fatal, hint.Of(p.Error), c.want[i], c.kind)
				}
			}
		})
	}
}

func TestWaitForReplay(t *testing.T) {
	const wanted = postgres.LSN(1000)
	// at is a standby that has replayed per second of the clock what speed says, up to limit.
	at := func(clock *steppedClock, speed, limit postgres.LSN, s server.ReplayState) func(context.Context) (server.ReplayState, error) {
		begin := clock.now
		return func(context.Context) (server.ReplayState, error) {
			s.Replayed = min(limit, speed*postgres.LSN(clock.now.Sub(begin)/time.Second))
			return s, nil
		}
	}
	replaying := server.ReplayState{InRecovery: true, Receiving: true}
	for _, c := range []struct {
		title        string
		speed, limit postgres.LSN
		state        server.ReplayState
		want, advice string // "" when the waiting succeeds
		waits        time.Duration
	}{
		{"progress is waited for, however slow", 1, 2000, replaying, "", "", 1000 * time.Second},
		{"the position itself is enough", 500, wanted, replaying, "", "", 2 * time.Second},
		{"one byte before it is not", 999, 999, replaying, "replayed WAL up to 0/3E7 and for 10s no more; the primary is at 0/3E8", "log", 11 * time.Second},
		{"a pause", 1, 2000, server.ReplayState{InRecovery: true, Paused: true}, "replay is paused at 0/0", "pg_wal_replay_resume", 0},
		{"a promotion", 1, 2000, server.ReplayState{}, "was promoted before the copy began", "--from local", 0},
		{"a delay is named", 5, 5, server.ReplayState{InRecovery: true, Receiving: true, Delay: time.Hour}, "recovery_min_apply_delay is 1h0m0s", "--archive-timeout", 11 * time.Second},
		{"no source of WAL is named", 5, 5, server.ReplayState{InRecovery: true}, "receives no WAL", "primary_conninfo", 11 * time.Second},
	} {
		t.Run(c.title, func(t *testing.T) {
			clock := &steppedClock{}
			begin := clock.now
			err := WaitForReplay(t.Context(), at(clock, c.speed, c.limit, c.state), wanted, clock.options(10*time.Second))
			if waited := clock.now.Sub(begin); waited < c.waits || waited > c.waits+2*time.Second {
				t.Errorf("waited %s, want %s", waited, c.waits)
			}
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), c.want) || !strings.Contains(hint.Of(err), c.advice) {
				t.Errorf("error %q, hint %q; want %q and %q", err, hint.Of(err), c.want, c.advice)
			}
		})
	}
	t.Run("a question that fails ends the waiting", func(t *testing.T) {
		lost := errors.New("lost")
		err := WaitForReplay(t.Context(), func(context.Context) (server.ReplayState, error) { return server.ReplayState{}, lost }, wanted, (&steppedClock{}).options(time.Minute))
		if !errors.Is(err, lost) {
			t.Error(err)
		}
	})
}
