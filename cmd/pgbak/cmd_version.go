package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/repo"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of the program and of the repository format",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.stdout, "pgbak %s (repository format %d, %s %s/%s)\n",
				version, repo.FormatVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
