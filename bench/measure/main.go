// Command measure runs a program and writes down what it cost: time, CPU and
// memory of the program and of every process that it starts. bench/run.sh
// measures pgbak and pgBackRest with it, which works with one process per core.
//
//	measure -row FILE -- PROGRAM ARGUMENT...
//
// It writes one line to FILE, tab-separated: exit status (128 and more is a
// signal), wall clock s, user CPU s, system CPU s, peak memory in bytes, and
// how that was found. Its own exit status says nothing: a measurement that
// could not be made leaves no line.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

func main() {
	row := flag.String("row", "", "`FILE` that takes the result")
	flag.Parse()
	if err := run(*row, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
	}
}

func run(row string, command []string) error {
	if row == "" || len(command) == 0 {
		return errors.New("usage: measure -row FILE -- PROGRAM [ARGUMENTS]")
	}
	c, err := measure(command, os.Stdout)
	if err != nil {
		return err
	}
	return os.WriteFile(row, []byte(c.row()), 0o666)
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
	return fmt.Sprintf("%d\t%.3f\t%.3f\t%.3f\t%d\t%s\n", c.status, c.wall.Seconds(), c.user.Seconds(), c.system.Seconds(), c.peak, how)
}

// measure runs the command with its output to out. The kernel adds the CPU
// time of descendants to that of the process that waited for them, so the
// figures of the command hold the whole tree.
func measure(command []string, out *os.File) (cost, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return cost{}, err
	}
	peaks := watch(cmd.Process.Pid)
	err := cmd.Wait()
	wall := time.Since(began)
	sampled := <-peaks.stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return cost{}, err
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return cost{}, errors.New("this system does not tell the resources that a process used")
	}
	c := cost{
		status: status(cmd.ProcessState), wall: wall,
		user: cmd.ProcessState.UserTime(), system: cmd.ProcessState.SystemTime(),
		peak: usage.Maxrss << 10, // KiB on Linux: getrusage(2); that of the largest process
	}
	if sampled.processes > 1 && sampled.bytes > c.peak {
		c.peak, c.summed = sampled.bytes, true
	}
	return c, nil
}

// status is the exit status as a shell gives it.
func status(state *os.ProcessState) int {
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return state.ExitCode()
}
