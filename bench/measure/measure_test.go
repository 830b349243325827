package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// measured measures a shell script.
func measured(t *testing.T, script string) cost {
	t.Helper()
	c, err := measure([]string{"/bin/sh", "-c", script}, 0, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTimeIsMeasured(t *testing.T) {
	c := measured(t, "sleep 0.3")
	if c.wall < 300*time.Millisecond || c.wall > 10*time.Second {
		t.Errorf("wall clock %v, want a little more than 0.3s", c.wall)
	}
	if cpu := c.user + c.system; cpu > 200*time.Millisecond {
		t.Errorf("sleeping took %v of CPU", cpu)
	}
}

func TestCPUOfDescendantsCounts(t *testing.T) {
	const burn = "(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done) & (sleep 0.1) & wait"
	if c := measured(t, burn); c.user+c.system < 20*time.Millisecond {
		t.Errorf("%v of CPU, want that of the child too", c.user+c.system)
	}
}

func TestDetachedProcessesCountAndAreWaitedFor(t *testing.T) {
	done := filepath.Join(t.TempDir(), "done")
	c := measured(t, "setsid sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 0.3; : >"+done+"' >/dev/null 2>&1 &")
	if _, err := os.Stat(done); err != nil {
		t.Error("the measurement ended before the process that the command left behind")
	}
	if c.user+c.system < 20*time.Millisecond {
		t.Errorf("%v of CPU, want that of the process that was left behind", c.user+c.system)
	}
	if c.wall > 250*time.Millisecond {
		t.Errorf("wall clock %v: that of the command does not end with what it leaves behind", c.wall)
	}
}

func TestStatusIsThatOfTheCommand(t *testing.T) {
	for _, test := range []struct {
		title, script string
		want          int
	}{
		{"success", "exit 0", 0},
		{"failure", "exit 7", 7},
		{"a signal, as shells count", "kill -TERM $$", 143},
	} {
		t.Run(test.title, func(t *testing.T) {
			if c := measured(t, test.script); c.status != test.want {
				t.Errorf("status %d, want %d", c.status, test.want)
			}
		})
	}
}

func TestMemoryOfSeveralProcessesIsSummed(t *testing.T) {
	// tail keeps its last line in memory: 64 MiB each.
	const hold = "(head -c 67108864 /dev/zero; sleep 0.5) | tail -n 1 | wc -c"
	one := measured(t, hold)
	two := measured(t, hold+" & "+hold+"; wait")
	const mib = 1 << 20
	if one.peak < 64*mib || one.peak > 110*mib {
		t.Errorf("one process with 64 MiB: peak %d MiB", one.peak/mib)
	}
	if two.peak < 128*mib || !two.summed {
		t.Errorf("two processes with 64 MiB each: peak %d MiB, summed %v", two.peak/mib, two.summed)
	}
}

func TestMemoryOfOneProcessIsTheKernelsFigure(t *testing.T) {
	c := measured(t, "exec dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null")
	const mib = 1 << 20
	if c.peak < 64*mib || c.peak > 110*mib || c.summed {
		t.Errorf("one process with a buffer of 64 MiB: peak %d MiB, summed %v", c.peak/mib, c.summed)
	}
}

func TestProcessThatIsGoneCountsNothing(t *testing.T) {
	if s := resident(t.TempDir(), 1); s != (sample{}) {
		t.Errorf("%+v for no process", s)
	}
}

func TestRowIsWrittenAndErrorsLeaveNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "row")
	if err := run(path, 0, 0, []string{"/nowhere/program"}); err == nil {
		t.Error("a program that is not there was measured")
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("there is a line for a measurement that failed")
	}
	if err := run(path, 0, 0, []string{"/bin/sh", "-c", "exit 3"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if words := strings.Split(strings.TrimSuffix(string(text), "\n"), "\t"); len(words) != 6 || words[0] != "3" {
		t.Errorf("row %q, want six columns with status 3 first", text)
	}
}

// TestCPUOfAServerIsThatOfItsWholeTree has a shell as the server: one child of
// it has ended, one goes on.
func TestCPUOfAServerIsThatOfItsWholeTree(t *testing.T) {
	done := filepath.Join(t.TempDir(), "done")
	const burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
	one := measured(t, burn)
	server := exec.Command("/bin/sh", "-c", "("+burn+"); ("+burn+"; : >"+done+"; sleep 20) & sleep 20")
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	pid := server.Process.Pid
	defer server.Wait()
	defer syscall.Kill(-pid, syscall.SIGKILL)
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(done); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the server does not end its work")
		}
	}
	both, err := cpuOfTree("/proc", pid)
	whole := both.sum()
	if err != nil || whole < (one.user+one.system)*3/2 {
		t.Errorf("the tree took %v for what takes %v twice, %v", whole, one.user+one.system, err)
	}
	again, err := cpuOfTree("/proc", pid)
	if err != nil || again.sum()-whole > 50*time.Millisecond {
		t.Errorf("a tree that sleeps took %v, %v", again.sum()-whole, err)
	}
}

func TestCPUOfAServerIsTheLastColumn(t *testing.T) {
	row := filepath.Join(t.TempDir(), "row")
	// The server must be no child of this process, which would wait for its end.
	if err := run(row, os.Getppid(), 0, []string{"/bin/sh", "-c", "exit 3"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(row)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Split(strings.TrimSuffix(string(text), "\n"), "\t")
	if len(words) != 7 || words[0] != "3" {
		t.Fatalf("row %q, want seven columns with status 3 first", text)
	}
	if seconds, err := strconv.ParseFloat(words[6], 64); err != nil || seconds < 0 || seconds > 60 {
		t.Errorf("a server that waits took %q s", words[6])
	}
	if err := run(row, 1<<30, 0, []string{"/bin/true"}); err == nil {
		t.Error("a server that is not there was measured")
	}
}

// TestDaemonCountsAsPartOfTheProgram has a shell as the daemon: it works, with
// 64 MiB in a child, while the program waits for its end.
func TestDaemonCountsAsPartOfTheProgram(t *testing.T) {
	dir := t.TempDir()
	fifo, done := filepath.Join(dir, "fifo"), filepath.Join(dir, "done")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("/bin/sh", "-c", "read x <"+fifo+"; i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); done; "+
		"(head -c 67108864 /dev/zero; sleep 0.5) | tail -n 1 | wc -c >/dev/null; : >"+done+"; sleep 60")
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer daemon.Wait()
	defer syscall.Kill(-daemon.Process.Pid, syscall.SIGKILL)
	// The daemon is a child of this process here; measure must not wait for it, hence the program of its own.
	program := filepath.Join(dir, "measure")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	row := filepath.Join(dir, "row")
	out, err := exec.Command(program, "-row", row, "-daemon", strconv.Itoa(daemon.Process.Pid), "--",
		"/bin/sh", "-c", "echo >"+fifo+"; while [ ! -e "+done+" ]; do sleep 0.05; done").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(row)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Split(strings.TrimSuffix(string(text), "\n"), "\t")
	if len(words) != 6 || words[0] != "0" || words[5] != "tree" {
		t.Fatalf("row %q", text)
	}
	if user, err := strconv.ParseFloat(words[2], 64); err != nil || user < 0.1 {
		t.Errorf("%s s of user CPU, want that of the daemon", words[2])
	}
	if peak, err := strconv.ParseInt(words[4], 10, 64); err != nil || peak < 64<<20 {
		t.Errorf("peak %s bytes, want that of the daemon's child", words[4])
	}
}
