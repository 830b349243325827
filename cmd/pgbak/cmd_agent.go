package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/archive/agent"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/monitor"
)

// drainTime is how long the agent goes on with what it accepted once it is told to
// stop: less than the 30 s that Kubernetes and most supervisors give.
const drainTime = 25 * time.Second

// probeAge is for how long those who ask for readiness cost the storage nothing more.
const probeAge = 10 * time.Second

func (a *app) agentCommand() *cobra.Command {
	ping := false
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Serve archive-push and archive-get from one resident process",
		Long: `agent listens on the socket that the configuration calls agent.socket. Where that
is set, archive-push and archive-get leave their work to the agent, which keeps
repositories, keys and connections open. It serves all stanzas of the
configuration, which it reads again when it changes.

It runs in the foreground until SIGTERM or SIGINT, then finishes what it has
accepted, for at most 25 seconds, and ends with 0. It runs as the user who runs
PostgreSQL, and must see the data directories: under the server's paths, or where
the pgdata of its own configuration says.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ping {
				return a.pingAgent(cmd.Context())
			}
			return a.runAgent(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&ping, "ping", false, "ask the agent that is running whether it answers, and do nothing else")
	return cmd
}

// agentConfiguration reads a configuration that has an agent.
func (a *app) agentConfiguration() (*config, error) {
	c, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	if c.Agent.Socket == "" {
		return nil, hint.Wrap(&configError{fmt.Errorf("configuration %s: agent.socket is missing", c.path)},
			"add 'agent: {socket: /run/pgbak/agent.sock}'.")
	}
	return c, nil
}

func (a *app) pingAgent(ctx context.Context) error {
	c, err := a.agentConfiguration()
	if err != nil {
		return err
	}
	if err := (agent.Client{Socket: c.Agent.Socket, Clock: a.clock}).Ping(ctx); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, "the agent answers")
	return err
}

func (a *app) runAgent(ctx context.Context) error {
	c, err := a.agentConfiguration()
	if err != nil {
		return err
	}
	processes, err := a.archiveProcesses(c)
	if err != nil {
		return err
	}
	counted := &agent.Metrics{}
	service := newAgentService(a, c, counted)
	address, stopHealth, err := a.serveHealth("agent.listen", c.Agent.Listen, &monitor.Health{Probe: service.probe, Age: probeAge, Measure: service.measure, Clock: a.clock})
	if err != nil {
		return err
	}
	defer stopHealth()
	s := &agent.Server{Socket: c.Agent.Socket, Service: service, Code: generalCode, Processes: requestsAtOnce(c, processes),
		Log: a.log, Clock: a.clock, Drain: drainTime, Metrics: counted}
	err = s.Serve(ctx, func() {
		a.log.Info("the agent is ready", "socket", c.Agent.Socket, "listen", address, "processes", processes)
		a.notifySupervisor("READY=1")
	})
	a.notifySupervisor("STOPPING=1")
	service.close()
	if errors.Is(err, agent.ErrRunning) {
		return hint.Wrap(err, "one agent serves all stanzas of a configuration; 'pgbak agent --ping' asks it.")
	}
	if err == nil {
		a.log.Info("the agent has ended")
	}
	return err
}

// archiveProcesses is how many WAL files are pushed or fetched at the same time.
func (a *app) archiveProcesses(c *config) (int, error) {
	s, err := c.Archive.parse()
	if err != nil {
		return 0, &configError{err}
	}
	if s.processes > 0 {
		return s.processes, nil
	}
	return a.processes(c)
}

// requestsAtOnce is enough for every server: what waits for a batch that is on its
// way counts too, and must not keep another server waiting.
func requestsAtOnce(c *config, processes int) int { return max(processes, 4) * len(c.Stanzas) }
