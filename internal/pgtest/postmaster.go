package pgtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// postmaster is a running server process.
type postmaster struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it was waited for; cmd.ProcessState is then set
}

// startPostmaster starts the command and appends what it says to the log. The server ends with the test process, however that
// ends: pg_ctl would leave it behind when a test is killed or times out.
func startPostmaster(cmd *exec.Cmd, logPath string) (*postmaster, error) {
	log, err := os.OpenFile(logPath, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("server log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // an immediate shutdown
	// A group of its own: Ctrl-C at the terminal goes to the test, which then decides.
	cmd.SysProcAttr.Setpgid = true
	p := &postmaster{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, so this one lives as long as the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the outcome is in cmd.ProcessState
		}
		_ = log.Close()
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *postmaster) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait returns whether the process ended within the time.
func (p *postmaster) wait(timeout time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(timeout):
		return false
	}
}

func (p *postmaster) signal(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // os.ErrProcessDone is as good
}

func (p *postmaster) exitStatus() int { return p.cmd.ProcessState.ExitCode() }

// kill sends SIGKILL to the process and everything below it, waits for their end, and returns the ids of those that
// are still there after a while. Backends are sessions of their own, so there is no process group to signal; the
// postmaster is halted first, so that it starts nothing new while its children are counted.
func (p *postmaster) kill() []int {
	if p.exited() {
		return nil
	}
	p.signal(syscall.SIGSTOP)
	for range 1000 { // the signal takes a moment
		if _, state, _ := processStat(p.cmd.Process.Pid); state != "R" && state != "S" && state != "D" {
			break
		}
		time.Sleep(time.Millisecond)
	}
	family := descendants(p.cmd.Process.Pid)
	p.signal(syscall.SIGKILL)
	for _, pid := range family {
		_ = syscall.Kill(pid, syscall.SIGKILL) // may have ended by itself
	}
	<-p.done
	deadline := time.Now().Add(30 * time.Second)
	for {
		var left []int
		for _, pid := range family {
			if alive(pid) {
				left = append(left, pid)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// descendants returns the processes below pid, children before their own children.
func descendants(pid int) []int {
	children := make(map[int][]int)
	found, _ := filepath.Glob("/proc/[0-9]*/stat") // fails on a bad pattern only
	for _, path := range found {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if parent, _, ok := processStat(child); ok {
			children[parent] = append(children[parent], child)
		}
	}
	var all []int
	for next := children[pid]; len(next) > 0; {
		all = append(all, next...)
		var below []int
		for _, child := range next {
			below = append(below, children[child]...)
		}
		next = below
	}
	return all
}

// alive tells whether a process exists and is not a zombie, which nobody may ever collect in a container.
func alive(pid int) bool {
	_, state, ok := processStat(pid)
	return ok && state != "Z" && state != "X"
}

// processStat reads parent and state from /proc/PID/stat (proc_pid_stat(5)): "pid (name) state ppid ...", where the name may
// itself contain spaces and parentheses.
func processStat(pid int) (parent int, state string, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", false
	}
	end := strings.LastIndexByte(string(text), ')')
	fields := strings.Fields(string(text[end+1:]))
	if end < 0 || len(fields) < 2 {
		return 0, "", false
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, fields[0], err == nil
}

// freePort returns a TCP port of 127.0.0.1 that is free now. It lies below the range from which the kernel takes ports for
// outgoing connections, so that none of those can take it before the server does, and is drawn at random because
// other tests draw at the same time.
func freePort() (int, error) {
	const first, count = 20000, 12000
	var last error
	for range 100 {
		port := first + rand.IntN(count)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, listener.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("100 ports of 127.0.0.1 tried: %w", last)
}
