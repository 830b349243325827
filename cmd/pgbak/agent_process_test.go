package main

import (
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/archive/agent"
	"github.com/pgbak/pgbak/internal/pgtest"
)

// agentProcess is an agent that runs as the server's user.
type agentProcess struct {
	cmd *exec.Cmd
	log lockedBuffer
}

func startAgent(t *testing.T, program, config, socket string) *agentProcess {
	t.Helper()
	return runAgentProcess(t, pgtest.Command(t, program, "--config", config, "agent"), socket)
}

// runAgentProcess starts a command that is, or becomes, an agent, and waits until it answers.
func runAgentProcess(t *testing.T, cmd *exec.Cmd, socket string) *agentProcess {
	t.Helper()
	p := &agentProcess{cmd: cmd}
	cmd.Stderr = &p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the agent said:\n%s", p.log.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		err := agent.Client{Socket: socket, Clock: time.Now}.Ping(t.Context())
		if err == nil {
			return p
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v\n%s", err, p.log.String())
		}
	}
}

// kill ends the process as the kernel would that is out of memory.
func (p *agentProcess) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// ask gives what the agent answers by HTTP at a path. Its configuration has agent.listen.
func (p *agentProcess) ask(t *testing.T, path string) (status int, body string) {
	t.Helper()
	_, rest, _ := strings.Cut(p.log.String(), " listen=")
	address, _, _ := strings.Cut(rest, " ")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// metric is the sum of a family's samples.
func (p *agentProcess) metric(t *testing.T, family string) (sum float64) {
	t.Helper()
	_, text := p.ask(t, "/metrics")
	for _, line := range strings.Split(text, "\n") {
		name, value, _ := strings.Cut(line, " ")
		if i := strings.LastIndexByte(line, ' '); i >= 0 {
			value = line[i+1:]
		}
		if name, _, _ = strings.Cut(name, "{"); name != family {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		sum += v
	}
	return sum
}
