// Command measure runs a program and writes down what it cost: time, CPU and
// memory of the program and of every process that it starts. bench/run.sh
// measures pgbak and pgBackRest with it, which works with one process per core.
//
//	measure -row FILE [-server PID] [-daemon PID] -- PROGRAM ARGUMENT...
//
// It writes one line to FILE, tab-separated: exit status (128 and more is a
// signal), wall clock s, user CPU s, system CPU s, peak memory in bytes, and
// how that was found; with -server, a seventh column: CPU s that the tree of
// processes under PID, a PostgreSQL server's first one, took meanwhile, what it
// started and has ended again included, and hence archive_command too. Its own
// exit status says nothing: a measurement that could not be made leaves no line.
//
// With -daemon the tree of processes under that PID works for the program and
// was there before, as an agent is: what CPU time it takes meanwhile, in units of 10 ms, is
// added to the program's, and its memory to the sum that is sampled.
//
// Processes that the program leaves behind, such as pgBackRest's asynchronous
// archiver, count too: measure becomes their parent and waits for their end,
// so a program that leaves a daemon must not be measured. The wall clock stops
// when the program itself ends.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	row := flag.String("row", "", "`FILE` that takes the result")
	server := flag.Int("server", 0, "`PID` of a server whose CPU time is measured apart")
	daemon := flag.Int("daemon", 0, "`PID` of a process that works for the program and counts as part of it")
	flag.Parse()
	if err := run(*row, *server, *daemon, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
	}
}

func run(row string, server, daemon int, command []string) error {
	if row == "" || len(command) == 0 {
		return errors.New("usage: measure -row FILE [-server PID] [-daemon PID] -- PROGRAM [ARGUMENTS]")
	}
	var before cpu
	var err error
	if server != 0 {
		if before, err = cpuOfTree("/proc", server); err != nil {
			return err
		}
	}
	c, err := measure(command, daemon, os.Stdout)
	if err != nil {
		return err
	}
	line := c.row()
	if server != 0 {
		after, err := cpuOfTree("/proc", server)
		if err != nil {
			return err
		}
		line += fmt.Sprintf("\t%.3f", after.less(before).sum().Seconds())
	}
	return os.WriteFile(row, []byte(line+"\n"), 0o666)
}

// cost is what a command cost.
type cost struct {
	status       int
	wall         time.Duration
	user, system time.Duration
	peak         int64 // bytes
	// summed says that the peak is that of the sum over several processes, as
	// sampled; else it is the kernel's exact figure for one process.
	summed bool
}

// row is the cost as a line of the table of raw results.
func (c cost) row() string {
	how := "process"
	if c.summed {
		how = "tree"
	}
	return fmt.Sprintf("%d\t%.3f\t%.3f\t%.3f\t%d\t%s", c.status, c.wall.Seconds(), c.user.Seconds(), c.system.Seconds(), c.peak, how)
}

// measure runs the command with its output to out. The kernel adds the CPU
// time of descendants to that of the process that waited for them, so the
// figures of the command hold the whole tree but for those who detached
// themselves; they become children of this process, whose figures are added. A
// daemon, unless it is 0, is a process that the figures include as well.
func measure(command []string, daemon int, out *os.File) (cost, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return cost{}, fmt.Errorf("becoming the parent of processes that detach themselves: %w", err)
	}
	before, err := cpuOfDaemon(daemon)
	if err != nil {
		return cost{}, err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return cost{}, err
	}
	peaks := watch(os.Getpid(), daemon)
	err = cmd.Wait()
	wall := time.Since(began)
	detached, orphans := waitDetached()
	sampled := <-peaks.stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return cost{}, err
	}
	if orphans != nil {
		return cost{}, fmt.Errorf("waiting for detached processes: %w", orphans)
	}
	after, err := cpuOfDaemon(daemon)
	if err != nil {
		return cost{}, err
	}
	with := after.less(before)
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return cost{}, errors.New("this system does not tell the resources that a process used")
	}
	c := cost{
		status: status(cmd.ProcessState), wall: wall,
		user: cmd.ProcessState.UserTime() + detached.user + with.user, system: cmd.ProcessState.SystemTime() + detached.system + with.system,
		peak: max(usage.Maxrss<<10, detached.peak), // KiB on Linux: getrusage(2); that of the largest process
	}
	if sampled.processes > 1 && sampled.bytes > c.peak {
		c.peak, c.summed = sampled.bytes, true
	}
	return c, nil
}

// cpuOfDaemon is what a daemon has taken so far; nothing if there is none.
func cpuOfDaemon(pid int) (cpu, error) {
	if pid == 0 {
		return cpu{}, nil
	}
	return cpuOfTree("/proc", pid)
}

// waitDetached waits for all children of this process and sums up what they
// cost. It must run after the command was waited for, which it would take too.
func waitDetached() (cost, error) {
	var sum cost
	for {
		var usage unix.Rusage
		_, err := unix.Wait4(-1, nil, 0, &usage)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return sum, nil
		case err != nil:
			return cost{}, err
		}
		sum.user += time.Duration(usage.Utime.Nano())
		sum.system += time.Duration(usage.Stime.Nano())
		sum.peak = max(sum.peak, usage.Maxrss<<10)
	}
}

// status is the exit status as a shell gives it.
func status(state *os.ProcessState) int {
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return state.ExitCode()
}
