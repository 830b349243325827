package s3

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const secretOfURL = "quite-secret"

func TestNoSecretOfTheEnvironmentIsShown(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL", "http://user:"+secretOfURL+"@127.0.0.1:1")
	o := optionsFor(t, toyServer(t, nil), "bucket")
	o.Endpoint = ""
	s, err := Open(t.Context(), o)
	if err == nil {
		_, err = s.Stat(t.Context(), "key")
		if strings.Contains(s.Properties().Location, secretOfURL) {
			t.Errorf("location %s", s.Properties().Location)
		}
	}
	if err == nil || strings.Contains(err.Error(), secretOfURL) {
		t.Errorf("error %v", err)
	}
	// net/http reads the variables of proxies once: another process has others.
	for _, proxy := range []string{"http://user:" + secretOfURL + "%zz@127.0.0.1:1", "http://user:" + secretOfURL + "@127.0.0.1:1"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestStatThroughTheProxy$", "-test.v")
		cmd.Env = append(os.Environ(), "HTTP_PROXY="+proxy, "PGBAK_TEST_PROXY=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("error: stat")) {
			t.Errorf("%v: %s", err, out)
		}
		if bytes.Contains(out, []byte(secretOfURL)) {
			t.Errorf("the secret of a proxy is shown: %s", out)
		}
	}
}

// TestStatThroughTheProxy is run by the test above, in a process of its own.

func TestStatThroughTheProxy(t *testing.T) {
	if os.Getenv("PGBAK_TEST_PROXY") == "" {
		return
	}
	o := optionsFor(t, toyServer(t, nil), "bucket")
	o.Endpoint = "http://s3.example.com"
	_, err := open(t, o).Stat(t.Context(), "key")
	t.Logf("error: %v", err)
}
