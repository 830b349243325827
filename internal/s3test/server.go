package s3test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Domain is the host below which a bucket has a name of its own, for clients of the virtual host style.
const Domain = "s3.localhost"

// readyTimeout bounds the start of a server, on a machine that is busy with other things.
const readyTimeout = 60 * time.Second

// Server is a real S3 server on loopback that nobody here wrote. It is safe for many goroutines, except Start and Stop.
type Server struct {
	// URL is http://127.0.0.1:PORT, or https.
	URL string
	// Region is what requests must be signed for.
	Region string
	// AccessKey and SecretKey are those of the server's administrator, drawn for this server.
	AccessKey, SecretKey string
	// CAFile has the PEM of the authority that signed the certificate; "" for http.
	CAFile string

	t         testing.TB
	name      string
	dir       string
	address   string
	command   func() *exec.Cmd
	process   *process
	authority *authority
}

// Options say what server to start. The zero value is good.
type Options struct {
	// TLS makes it https, with a certificate for 127.0.0.1, localhost, Domain and the names below.
	TLS bool
	// Region is us-east-1 if empty.
	Region string
	// Dir holds the objects; a new directory that is removed with the test if empty.
	Dir string
}

// MinIO starts a MinIO server with one drive, waits until it answers, and stops it when the test ends.
func MinIO(t testing.TB, o Options) *Server {
	t.Helper()
	s := newServer(t, "minio", &o)
	s.command = func() *exec.Cmd {
		// The directory of certificates is always named, as the default is in a home that may not exist.
		cmd := exec.Command(binary(t, s.name), "server", "--quiet", "--anonymous",
			"--address", s.address, "--certs-dir", s.certDir(), o.Dir)
		cmd.Env = s.environment("MINIO_ROOT_USER="+s.AccessKey, "MINIO_ROOT_PASSWORD="+s.SecretKey,
			"MINIO_SITE_REGION="+s.Region, "MINIO_DOMAIN="+Domain, "MINIO_BROWSER=off", "MINIO_UPDATE=off")
		return cmd
	}
	s.begin(t)
	return s
}

// Versity starts a versitygw that keeps objects as files, waits until it answers, and stops it when the test ends. Dir
// must be on a file system with user extended attributes. It closes a connection after each answer, as it does by default.
func Versity(t testing.TB, o Options) *Server {
	t.Helper()
	s := newServer(t, "versitygw", &o)
	s.command = func() *exec.Cmd {
		args := []string{"--port", s.address, "--region", s.Region, "--virtual-domain", Domain, "--quiet"}
		if o.TLS {
			args = append(args, "--cert", filepath.Join(s.certDir(), certName), "--key", filepath.Join(s.certDir(), keyName))
		}
		cmd := exec.Command(binary(t, s.name), append(args, "posix", o.Dir)...)
		cmd.Env = s.environment("ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
		return cmd
	}
	s.begin(t)
	return s
}

// newServer makes the directories, keys and certificates, and fills in what the options leave open.
func newServer(t testing.TB, name string, o *Options) *Server {
	t.Helper()
	binary(t, name)
	// Not t.TempDir, which for root no other user can enter.
	dir, err := os.MkdirTemp("", "pgbak-"+name+"-")
	if err != nil {
		t.Fatalf("directory of %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("directory of %s: %v", name, err)
		}
	})
	s := &Server{
		Region: o.Region, AccessKey: "AK" + rand.Text()[:18], SecretKey: rand.Text(),
		t: t, name: name, dir: dir,
	}
	if s.Region == "" {
		s.Region = "us-east-1"
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(dir, "data")
		err = os.Mkdir(o.Dir, 0o700)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = os.Mkdir(s.certDir(), 0o700)
	}
	if err == nil && o.TLS {
		s.CAFile = filepath.Join(dir, "ca.pem")
		s.authority, err = newAuthority(s.CAFile)
		if err == nil {
			err = s.authority.issueTo(s.certDir())
		}
	}
	if err != nil {
		t.Fatalf("files of %s: %v", name, err)
	}
	return s
}

func (s *Server) certDir() string { return filepath.Join(s.dir, "certs") }

func (s *Server) logPath() string { return filepath.Join(s.dir, "log") }

// environment has nothing of the test's own that would configure the server.
func (s *Server) environment(more ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + os.TempDir()}, more...)
}

// begin starts the server for the first time. Between the choice of a port and its use somebody else may take it, then
// another one is chosen.
func (s *Server) begin(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", s.name, s.logEnd())
		}
	})
	var err error
	for range 3 {
		s.address, err = freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		s.URL = "http://" + s.address
		if s.authority != nil {
			s.URL = "https://" + s.address
		}
		if err = s.launch(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// Start starts the server again after Stop, at the same address with the same objects, and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.launch(); err != nil {
		s.t.Fatal(err)
	}
}

// Stop ends the server at once, requests under way included, as a crash would. The address refuses connections until
// Start. A server that does not run is left alone.
func (s *Server) Stop() {
	if s.process != nil {
		s.process.kill()
		s.process = nil
	}
}

// launch starts the process and waits until a signed request is answered.
func (s *Server) launch() error {
	if s.process != nil {
		return fmt.Errorf("%s at %s runs already", s.name, s.URL)
	}
	p, err := startProcess(s.command(), s.logPath())
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	deadline := time.Now().Add(readyTimeout)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		status, _, err := s.do(ctx, http.MethodGet, "/", nil)
		cancel()
		switch {
		case err == nil && status == http.StatusOK:
			s.process = p
			return nil
		case p.exited():
			return fmt.Errorf("%s at %s ended at its start; the end of its log:\n%s", s.name, s.URL, s.logEnd())
		case time.Now().After(deadline):
			p.kill()
			return fmt.Errorf("%s at %s is not ready after %v (status %d, error %v); the end of its log:\n%s",
				s.name, s.URL, readyTimeout, status, err, s.logEnd())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// logEnd returns the last lines of the server's log.
func (s *Server) logEnd() string {
	text, err := os.ReadFile(s.logPath())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// tlsConfig trusts the server's authority; nil for http.
func (s *Server) tlsConfig() *tls.Config {
	if s.authority == nil {
		return nil
	}
	return s.authority.trust()
}

// DialLocal connects to this machine whatever the host is, only the port of the address counts. It fits into
// http.Transport.DialContext of a client that names buckets as BUCKET.s3.localhost.
func DialLocal(ctx context.Context, network, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
}

// VirtualURL is an URL of the server, or of a proxy, with Domain as its host: what a client of the virtual host style takes for its endpoint.
func VirtualURL(url string) string {
	return strings.Replace(url, "127.0.0.1", Domain, 1)
}

// binary returns the path of an installed program, and fails the test if there is none.
func binary(t testing.TB, name string) string {
	t.Helper()
	var tried []string
	for _, cache := range cacheDirs() {
		path := filepath.Join(cache, "s3", name)
		if _, err := exec.LookPath(path); err == nil {
			return path
		}
		tried = append(tried, path)
	}
	t.Fatalf("there is no %s: run scripts/install-s3.sh", strings.Join(tried, " or "))
	return ""
}

// cacheDirs are where scripts/install-s3.sh may have put programs. A user also finds what root installed.
func cacheDirs() []string {
	const shared = "/var/cache/pgbak"
	if dir := os.Getenv("PGBAK_TEST_CACHE"); dir != "" {
		return []string{dir}
	}
	own, err := os.UserCacheDir() // $XDG_CACHE_HOME or ~/.cache
	if os.Getuid() == 0 || err != nil {
		return []string{shared}
	}
	return []string{filepath.Join(own, "pgbak"), shared}
}

// freeAddress returns an address of 127.0.0.1 whose port is free now. The port is below those that the kernel gives to
// outgoing connections, so that it is still free when a server that was stopped starts again.
func freeAddress() (string, error) {
	const first, count = 20000, 12000
	var last error
	for range 100 {
		var draw [2]byte
		_, _ = rand.Read(draw[:]) // never fails
		port := first + (int(draw[0])<<8+int(draw[1]))%count
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		listener, err := net.Listen("tcp", address)
		if err == nil {
			return address, listener.Close()
		}
		last = err
	}
	return "", fmt.Errorf("100 ports of 127.0.0.1 tried: %w", last)
}
