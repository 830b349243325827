package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

const contractS3 = `repositories:
  - name: s3
    url: s3://backups/main
    s3:
      endpoint: https://minio.example.com:9000
      region: eu-central-1
      path-style: true
      ca-file: /etc/pgbak/ca.pem
      storage-class: STANDARD_IA
      sse: aws:kms
      kms-key-id: alias/backups
      credentials: {key-file: /etc/pgbak/s3/key, secret-file: /etc/pgbak/s3/secret, token-file: /etc/pgbak/s3/token}
    limits: {upload: 50MiB/s, download: 100MiB/s, requests: 100/s, connections: 32}
    retry: {attempts: 10, time: 5m}
`

const s3Stanza = `stanzas: [{name: main, pgdata: /data}]
`

func TestTheS3ConfigurationOfTheDocumentationIsUnderstood(t *testing.T) {
	c, err := parseConfig([]byte(contractS3 + s3Stanza))
	if err != nil {
		t.Fatal(err)
	}
	r := c.Repositories[0]
	if p, err := r.place(); err != nil || p != (place{bucket: "backups", prefix: "main"}) {
		t.Errorf("place %+v, %v", p, err)
	}
	want := s3Config{Endpoint: "https://minio.example.com:9000", Region: "eu-central-1", PathStyle: r.S3.PathStyle, CAFile: "/etc/pgbak/ca.pem",
		StorageClass: "STANDARD_IA", SSE: "aws:kms", KMSKeyID: "alias/backups", Credentials: r.S3.Credentials}
	if *r.S3 != want || !*r.S3.PathStyle || *r.S3.Credentials != (credentialsConfig{"/etc/pgbak/s3/key", "/etc/pgbak/s3/secret", "/etc/pgbak/s3/token"}) {
		t.Errorf("s3 %+v %+v", *r.S3, *r.S3.Credentials)
	}
	limits, err := r.Limits.parse()
	if err != nil || limits.Upload != 50<<20 || limits.Download != 100<<20 || limits.Requests != 100 || *r.Limits.Connections != 32 {
		t.Errorf("limits %+v, %v", limits, err)
	}
	if b, err := r.Retry.parse(); err != nil || b != (retryBounds{10, 5 * time.Minute}) {
		t.Errorf("retry %+v, %v", b, err)
	}
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil || !strings.Contains(string(text), contractS3) {
		t.Errorf("docs/configuration.md does not have it (%v)", err)
	}
}

// secretWord stands where nobody should have put a secret.
const secretWord = "wJalrXUtnFEMI"

func TestS3ConfigurationsThatCouldNotWorkAreRefused(t *testing.T) {
	replace := func(old, new string) [2]string { return [2]string{old, new} }
	url := func(u string) [2]string { return replace("s3://backups/main", u) }
	endpoint := func(e string) [2]string { return replace("https://minio.example.com:9000", e) }
	file := func(keep string) [2]string {
		return [2]string{contractS3, "repositories:\n  - name: s3\n    url: file:///r\n    " + keep + "\n"}
	}
	for _, c := range []struct {
		title string
		edit  [2]string
		want  string
	}{
		{"an unknown key of s3", replace("region:", "reigon:"), `line 6: unknown key "reigon"`},
		{"a secret in the file itself", replace("credentials: {key-file: /etc/pgbak/s3/key, secret-file: /etc/pgbak/s3/secret, token-file: /etc/pgbak/s3/token}", "secret-key: "+secretWord), `unknown key "secret-key"`},
		{"a secret where a section belongs", replace("credentials: {key-file: /etc/pgbak/s3/key, secret-file: /etc/pgbak/s3/secret, token-file: /etc/pgbak/s3/token}", "credentials: "+secretWord), "line 12: the value has the wrong form"},
		{"a secret in the url", url("s3://AKIA:" + secretWord + "@backups/main"), "url holds credentials"},
		{"a secret in a url that cannot be read", url("s3://AKIA:" + secretWord + "%zz@backups/main"), "url cannot be understood"},
		{"a secret in the url of a directory", url("file://x:" + secretWord + "@/main"), "file:///DIRECTORY"},
		{"a secret in the endpoint", endpoint("https://AKIA:" + secretWord + "@minio:9000"), "s3.endpoint holds credentials"},
		{"a url without a bucket", url("s3:///main"), "no bucket"},
		{"a url with a port", url("s3://backups:9000/main"), "names a port"},
		{"a url with a query", url("s3://backups/main?region=x"), "s3://BUCKET/PREFIX"},
		{"a url with a fragment", url("s3://backups/main#x"), "s3://BUCKET/PREFIX"},
		{"a prefix with a way up", url("s3://backups/a/../b"), "prefix"},
		{"a prefix with an empty element", url("s3://backups/a//b"), "prefix"},
		{"a prefix that leaves keys no room", url("s3://backups/" + strings.Repeat("p", 150)), "at most 123"},
		{"a bucket that no server has", url("s3://ba*kups/main"), "bucket"},
		{"a bucket that is an address", url("s3://10.0.0.1/main"), "bucket"},
		{"a bucket with two dots", url("s3://back..ups/main"), "bucket"},
		{"a bucket with capitals at Amazon", [2]string{contractS3, "repositories: [{name: s3, url: s3://Backups/main}]\n"}, "bucket"},
		{"a bucket with capitals at Amazon by its endpoint", [2]string{contractS3, "repositories: [{name: s3, url: s3://Backups/main, s3: {endpoint: https://s3.eu-central-1.amazonaws.com}}]\n"}, "bucket"},
		{"an endpoint without a scheme", endpoint("minio:9000"), "s3.endpoint must begin with"},
		{"an endpoint of another scheme", endpoint("ftp://minio"), "s3.endpoint must begin with"},
		{"an endpoint without a host", endpoint("https://:9000"), "s3.endpoint has no host"},
		{"an endpoint with a path", endpoint("https://minio/backups"), "s3.endpoint has a path"},
		{"an endpoint with a query", endpoint("https://minio?x=y"), "s3.endpoint is not of the form"},
		{"a CA without TLS", endpoint("http://minio:9000"), "s3.ca-file is of no use"},
		{"a region that is none", replace("eu-central-1", "eu central"), "s3.region"},
		{"a relative CA file", replace("/etc/pgbak/ca.pem", "ca.pem"), "s3.ca-file"},
		{"a storage class that is none", replace("STANDARD_IA", "standard ia"), "s3.storage-class"},
		{"a storage class that cannot be read", replace("STANDARD_IA", "DEEP_ARCHIVE"), "cannot be read at once"},
		{"an encryption that is unknown", replace("aws:kms\n", "AES128\n"), "s3.sse"},
		{"a KMS key without KMS", replace("aws:kms\n", "AES256\n"), "s3.kms-key-id needs s3.sse"},
		{"a KMS key without any encryption", replace("      sse: aws:kms\n", ""), "s3.kms-key-id needs s3.sse"},
		{"a key without a secret", replace("secret-file: /etc/pgbak/s3/secret, ", ""), "s3.credentials.secret-file is missing"},
		{"a secret without a key", replace("key-file: /etc/pgbak/s3/key, ", ""), "s3.credentials.key-file is missing"},
		{"a token alone", replace("key-file: /etc/pgbak/s3/key, secret-file: /etc/pgbak/s3/secret, ", ""), "s3.credentials.key-file is missing"},
		{"no credentials in credentials", replace("{key-file: /etc/pgbak/s3/key, secret-file: /etc/pgbak/s3/secret, token-file: /etc/pgbak/s3/token}", "{}"), "s3.credentials is empty"},
		{"a relative secret file", replace("/etc/pgbak/s3/secret", "secret"), "s3.credentials.secret-file"},
		{"s3 with a directory", file("s3: {region: x}"), "s3 is only for a url"},
		{"connections with a directory", file("limits: {connections: 4}"), "limits.connections is only for a url"},
		{"a rate without a unit", replace("50MiB/s", "50"), "limits.upload"},
		{"a rate of nothing", replace("100MiB/s", "0MiB/s"), "limits.download"},
		{"requests without a unit", replace("100/s", "100"), "limits.requests"},
		{"no requests", replace("100/s", "0/s"), "limits.requests"},
		{"no connections", replace("connections: 32", "connections: 0"), "limits.connections is 0"},
		{"too many connections", replace("connections: 32", "connections: 1025"), "limits.connections is 1025"},
		{"no attempts", replace("attempts: 10", "attempts: 0"), "retry.attempts is 0"},
		{"a time that is none", replace("time: 5m", "time: 5"), "retry.time"},
		{"a time below 0", replace("time: 5m", "time: -5m"), "retry.time"},
		{"a time that never ends", replace("time: 5m", "time: 25h"), "retry.time"},
	} {
		t.Run(c.title, func(t *testing.T) {
			text := strings.Replace(contractS3, c.edit[0], c.edit[1], 1)
			if text == contractS3 {
				t.Fatal("the case changes nothing")
			}
			_, err := parseConfig([]byte(text + s3Stanza))
			if err == nil {
				t.Fatal("accepted")
			}
			contains(t, err.Error(), c.want)
			if strings.Contains(err.Error(), secretWord[:5]) {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

func TestTheStyleOfRequestsFollowsTheServer(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		endpoint string
		set      *bool
		want     bool
	}{
		{"", nil, false},
		{"https://s3.eu-central-1.amazonaws.com", nil, false},
		{"https://s3.cn-north-1.amazonaws.com.cn", nil, false},
		{"https://amazonaws.com.example.org", nil, true},
		{"https://notamazonaws.com", nil, true},
		{"https://minio:9000", nil, true},
		{"https://minio:9000", &no, false},
		{"", &yes, true},
	} {
		if got := (s3Config{Endpoint: c.endpoint, PathStyle: c.set}).pathStyle(); got != c.want {
			t.Errorf("endpoint %q: path style %v", c.endpoint, got)
		}
	}
}

func TestBucketsOfOtherServersMayHaveOldNames(t *testing.T) {
	for _, name := range []string{"Backups", "my_backups", "b.c", strings.Repeat("b", 80)} {
		text := "repositories: [{name: s3, url: \"s3://" + name + "\", s3: {endpoint: \"https://minio\"}}]\n" + s3Stanza
		if _, err := parseConfig([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNamesOfS3AreThoseOfTheirForm compares with the regular expressions that say the form.
func TestNamesOfS3AreThoseOfTheirForm(t *testing.T) {
	region := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	class := regexp.MustCompile(`^[A-Z][A-Z0-9_-]*$`)
	amazon := regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*[a-z0-9]$`)
	other := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]$`)
	for c := range 256 {
		one := string([]byte{byte(c)})
		for _, name := range []string{one, "a" + one, one + "a", "A" + one, "bb" + one, one + "bb", "b" + one + "b", "a" + one + "B"} {
			s := s3Config{Region: name, StorageClass: "A"}
			if got := s.check() == nil; got != region.MatchString(name) {
				t.Errorf("%q as a region: %v", name, got)
			}
			s = s3Config{StorageClass: name}
			if got := s.check() == nil; got != class.MatchString(name) {
				t.Errorf("%q as a storage class: %v", name, got)
			}
			long := len(name) >= 3
			if got := checkBucket(name, true) == nil; got != (long && amazon.MatchString(name)) {
				t.Errorf("%q as a bucket of Amazon's: %v", name, got)
			}
			if got := checkBucket(name, false) == nil; got != (long && other.MatchString(name)) {
				t.Errorf("%q as a bucket: %v", name, got)
			}
		}
	}
}
