package s3test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is a server's process. It ends with the test process, however that ends.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it was waited for
}

// startProcess starts the command and appends what it says to the log.
func startProcess(cmd *exec.Cmd, logPath string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("server log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: Ctrl-C at the terminal goes to the test, which then decides.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, so this one lives as long as the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how a server ended that was killed does not matter
		}
		_ = log.Close()
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // os.ErrProcessDone is as good
	<-p.done
}
