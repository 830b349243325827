package e2e

import (
	"fmt"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/s3test"
)

// TestTheMainJobOnS3 is the main job with its repository in a bucket: on MinIO
// for every major (those with even numbers encrypt it), and once on another
// server that somebody else wrote.
func TestTheMainJobOnS3(t *testing.T) {
	minio := s3test.MinIO(t, s3test.Options{TLS: true})
	versity := s3test.Versity(t, s3test.Options{TLS: true, Region: "eu-test-1"})
	majors := pgtest.Majors()
	oldest, newest := majors[0], majors[len(majors)-1]
	for _, major := range majors {
		t.Run(fmt.Sprint("MinIO, PostgreSQL ", major), func(t *testing.T) { doOnS3(t, major, minio, major == oldest || major == newest) })
	}
	t.Run(fmt.Sprint("versitygw, PostgreSQL ", oldest), func(t *testing.T) { doOnS3(t, oldest, versity, true) })
}

// doOnS3 ends with a second full if all is set.
func doOnS3(t *testing.T, major int, server *s3test.Server, all bool) {
	t.Parallel()
	b, proxy := behind(t, server)
	j := newJob(t, major, b)
	j.targets = []string{"time"}
	j.do(t)
	if all {
		t.Run("a second full adds almost nothing, and each restores without the other", j.secondFull)
	}
	// Nothing here would show that the repository is where it is said to be.
	seen := map[string]int{}
	for _, r := range proxy.Requests() {
		seen[r.Operation()]++
	}
	t.Logf("requests: %v", seen)
	for _, operation := range []string{"PUT", "GET", "LIST", "DELETE"} {
		if seen[operation] == 0 {
			t.Errorf("no %s went to the server", operation)
		}
	}
	if exists(j.repo) {
		t.Errorf("there is a repository at %s", j.repo)
	}
}
