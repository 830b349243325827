package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// chaosService is a process that is started again whenever it ends, as by a
// supervisor.
type chaosService struct {
	mu      sync.Mutex
	running *exec.Cmd
	stopped bool
	failed  int    // runs that ended by themselves since the last that was killed
	said    string // by the last of them
	ended   chan struct{}
}

func startChaosService(t *testing.T, program string, args ...string) *chaosService {
	t.Helper()
	s := &chaosService{ended: make(chan struct{})}
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(s.ended)
		for s.again(pgtest.Command(t, program, args...)) {
			time.Sleep(100 * time.Millisecond) // as supervisors do
		}
	}()
	return s
}

// again runs the process once, and tells whether it is to run again.
func (s *chaosService) again(cmd *exec.Cmd) bool {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	var said bytes.Buffer
	cmd.Stderr = &said
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return false
	}
	if err := cmd.Start(); err != nil {
		s.mu.Unlock()
		return true
	}
	s.running = cmd
	s.mu.Unlock()
	err := cmd.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() >= 0 {
		s.failed, s.said = s.failed+1, fmt.Sprintf("%v: %s", err, said.String())
	} else {
		s.failed = 0
	}
	return true
}

// failures is how often the process has ended by itself lately, and what it said.
func (s *chaosService) failures() (int, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed, s.said
}

// kill ends the process with SIGKILL.
func (s *chaosService) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		_ = s.running.Process.Kill() // it may have ended
	}
}

// stop ends it for good.
func (s *chaosService) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.kill()
	<-s.ended
}

func (s *chaosService) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}
