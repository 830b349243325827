package s3

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
)

func TestRotatedCredentialsAreTaken(t *testing.T) {
	var valid atomic.Value
	valid.Store("first")
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		key := valid.Load().(string)
		if !strings.Contains(r.Header.Get("Authorization"), "Credential="+key+"/") || r.Header.Get("X-Amz-Security-Token") != key+"-token" {
			sayError(w, 400, "ExpiredToken")
			return
		}
		w.WriteHeader(204)
	})
	o := optionsFor(t, server, "bucket")
	o.Credentials.TokenFile = o.Credentials.KeyFile + ".token"
	rotate := func(key string) {
		writeFile(t, o.Credentials.KeyFile, key+"\r\n")
		writeFile(t, o.Credentials.TokenFile, key+"-token\n")
	}
	rotate("first")
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	var later atomic.Int64
	s := open(t, o)
	// The clock of the files alone: that of connections must go on.
	s.identity.files.clock = func() time.Time { return now.Add(time.Duration(later.Load())) }
	del := func() error { return s.Delete(t.Context(), "key") }
	if err := del(); err != nil {
		t.Fatal(err)
	}
	// The server takes others now, and there are none: trying again is in vain.
	valid.Store("second")
	if err := del(); err == nil || errors.Is(err, storage.ErrTransient) {
		t.Errorf("error %v, want one that is not transient", err)
	}
	// There are others, which were not looked for yet: the next try takes them.
	rotate("second")
	if err := del(); !errors.Is(err, storage.ErrTransient) {
		t.Errorf("error %v, want a transient one", err)
	}
	if err := del(); err != nil {
		t.Errorf("with the second credentials: %v", err)
	}
	// Others are taken without an error first, after a while.
	rotate("third-one")
	valid.Store("third-one")
	later.Store(int64(lookEvery))
	if err := del(); err != nil {
		t.Errorf("with the third credentials: %v", err)
	}
}

func TestUnusableCredentialFilesAreNamedAndNotShown(t *testing.T) {
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) { t.Error("a request was sent") })
	for _, c := range []struct{ content, want string }{
		{"", "secret is empty"}, {"\n", "secret is empty"}, {"two lines\nof it", "secret does not hold one credential on one line"},
	} {
		o := optionsFor(t, server, "bucket")
		writeFile(t, o.Credentials.SecretFile, c.content)
		_, err := open(t, o).Stat(t.Context(), "key")
		if err == nil || !strings.Contains(err.Error(), o.Credentials.SecretFile[:len(o.Credentials.SecretFile)-6]+c.want) ||
			strings.Contains(err.Error(), "lines\nof") || errors.Is(err, storage.ErrTransient) || hint.Of(err) == "" {
			t.Errorf("%q gave error %v", c.content, err)
		}
	}
	o := optionsFor(t, server, "bucket")
	o.Credentials.KeyFile += ".absent"
	if _, err := open(t, o).Stat(t.Context(), "key"); err == nil || !strings.Contains(err.Error(), o.Credentials.KeyFile+": no such file") ||
		errors.Is(err, storage.ErrNotExist) {
		t.Errorf("an absent file gave %v", err)
	}
}

func TestCredentialsOfTheEnvironment(t *testing.T) {
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Authorization"), "Credential=from-the-environment/") {
			t.Errorf("signed by %s", r.Header.Get("Authorization"))
		}
		w.WriteHeader(204)
	})
	t.Setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.URL+"/must-not-be-asked")
	o := optionsFor(t, server, "bucket")
	o.Credentials = CredentialFiles{}
	if err := open(t, o).Delete(t.Context(), "key"); err != nil {
		t.Error(err)
	}
}

func TestNoCredentialsAnywhere(t *testing.T) {
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) { t.Error("a request was sent") })
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
	o := optionsFor(t, server, "bucket")
	o.Credentials = CredentialFiles{}
	_, err := open(t, o).Stat(t.Context(), "key")
	if err == nil || errors.Is(err, storage.ErrTransient) || !strings.Contains(hint.Of(err), "s3.key-file") {
		t.Errorf("error %v, advice %q", err, hint.Of(err))
	}
}

func TestCredentialsThatChangeUnderARequestAreTransientForAll(t *testing.T) {
	var valid atomic.Value
	valid.Store("first")
	slow, arrived := make(chan struct{}), make(chan struct{})
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/slow") {
			arrived <- struct{}{}
			<-slow
		}
		if !strings.Contains(r.Header.Get("Authorization"), "Credential="+valid.Load().(string)+"/") {
			sayError(w, 403, "InvalidAccessKeyId")
			return
		}
		w.WriteHeader(204)
	})
	o := optionsFor(t, server, "bucket")
	writeFile(t, o.Credentials.KeyFile, "first")
	s := open(t, o)
	result := make(chan error)
	go func() { result <- s.Delete(context.WithoutCancel(t.Context()), "slow") }()
	<-arrived
	// Another request takes the new ones while the first is under way with the old.
	writeFile(t, o.Credentials.KeyFile, "second")
	valid.Store("second")
	if _, err := s.identity.files.again(); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "quick"); err != nil {
		t.Fatal(err)
	}
	close(slow)
	if err := <-result; !errors.Is(err, storage.ErrTransient) {
		t.Errorf("error %v, want a transient one: there are newer credentials than those of this request", err)
	}
}

func TestCredentialsThatCannotBeReadForAMomentAreTransient(t *testing.T) {
	server := toyServer(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	o := optionsFor(t, server, "bucket")
	s := open(t, o)
	if err := s.Delete(t.Context(), "key"); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.identity.files.clock = func() time.Time { now = now.Add(lookEvery); return now }
	secret := o.Credentials.SecretFile
	writeFile(t, secret, "") // as who writes it anew does, for a moment
	if err := s.Delete(t.Context(), "key"); !errors.Is(err, storage.ErrTransient) {
		t.Errorf("an empty file gave %v, want a transient error", err)
	}
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "key"); !errors.Is(err, storage.ErrTransient) || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a missing file gave %v, want a transient error", err)
	}
	writeFile(t, secret, "secret")
	if err := s.Delete(t.Context(), "key"); err != nil {
		t.Error(err)
	}
}

func TestATroubledCredentialServiceIsTransient(t *testing.T) {
	sts := toyServer(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
	})
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", sts.URL+"/v1/credentials")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	o := optionsFor(t, sts, "bucket")
	o.Credentials = CredentialFiles{}
	_, err := open(t, o).Stat(t.Context(), "key")
	if err == nil || !errors.Is(err, storage.ErrTransient) {
		t.Errorf("containers' service: error %v, want a transient one", err)
	}
	token := t.TempDir() + "/token"
	writeFile(t, token, "token")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pgbak")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	_, err = open(t, o).Stat(t.Context(), "key")
	if err == nil || !errors.Is(err, storage.ErrTransient) {
		t.Errorf("web identity: error %v, want a transient one", err)
	}
}
