#include "net/tls_authority.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define DAY         86400L
#define CA_DAYS     3650
#define SERVER_DAYS 397 /* some clients take no more */
#define RENEW_DAYS  30
#define EARLY       3600 /* clocks differ */

static void free_key(EVP_PKEY **key)
{
	EVP_PKEY_free(*key);
}

static void free_certificate(X509 **certificate)
{
	X509_free(*certificate);
}

#define cleanup_key         __attribute__((cleanup(free_key)))
#define cleanup_certificate __attribute__((cleanup(free_certificate)))

static int fail(struct error *err, const char *what)
{
	unsigned long number = ERR_get_error();
	const char *reason = number ? ERR_reason_error_string(number) : NULL;

	ERR_clear_error();
	return error_set(err, EIO, "%s: %s", what, reason ? reason : "failed");
}

/* --- files --- */

/* The whole of a memory BIO as a file; takes the BIO. */
static int save(BIO *bio, const char *path, mode_t mode, struct error *err)
{
	char *data;
	long size = BIO_get_mem_data(bio, &data);
	int ret = file_write_atomic(path, data, (size_t)size, mode, err);

	(void)BIO_free(bio);
	return ret;
}

static int save_key(EVP_PKEY *key, const char *path, struct error *err)
{
	BIO *bio = BIO_new(BIO_s_secmem());

	if (!bio || PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1) {
		(void)BIO_free(bio);
		return fail(err, path);
	}
	return save(bio, path, 0600, err);
}

/* A certificate, and what signed it when `issuer` is not NULL. */
static int save_chain(X509 *certificate, X509 *issuer, const char *path, struct error *err)
{
	BIO *bio = BIO_new(BIO_s_mem());

	if (!bio || PEM_write_bio_X509(bio, certificate) != 1 ||
	    (issuer && PEM_write_bio_X509(bio, issuer) != 1)) {
		(void)BIO_free(bio);
		return fail(err, path);
	}
	return save(bio, path, 0644, err);
}

static X509 *load_certificate(const char *path)
{
	BIO *bio = BIO_new_file(path, "r");
	X509 *certificate = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;

	(void)BIO_free(bio);
	ERR_clear_error();
	return certificate;
}

static EVP_PKEY *load_key(const char *path)
{
	BIO *bio = BIO_new_file(path, "r");
	EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;

	(void)BIO_free(bio);
	ERR_clear_error();
	return key;
}

/* --- certificates --- */

static bool add_extension(X509 *certificate, X509 *issuer, int which, const char *value)
{
	X509V3_CTX context;
	X509_EXTENSION *extension;
	bool added;

	X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
	extension = X509V3_EXT_conf_nid(NULL, &context, which, value);
	added = extension && X509_add_ext(certificate, extension, -1) == 1;
	X509_EXTENSION_free(extension);
	return added;
}

static bool set_serial(X509 *certificate)
{
	unsigned char bytes[16];
	BIGNUM *number;
	bool set;

	if (RAND_bytes(bytes, sizeof(bytes)) != 1)
		return false;
	bytes[0] &= 0x7f;
	number = BN_bin2bn(bytes, sizeof(bytes), NULL);
	set = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
	BN_free(number);
	return set;
}

/* What all have; not signed yet. `issuer` NULL: its own. */
static X509 *begin_certificate(EVP_PKEY *key, X509 *issuer, const char *name, int days)
{
	X509 *certificate = X509_new();
	X509_NAME *subject = certificate ? X509_get_subject_name(certificate) : NULL;

	if (certificate && X509_set_version(certificate, X509_VERSION_3) == 1 && set_serial(certificate) &&
	    X509_gmtime_adj(X509_getm_notBefore(certificate), -EARLY) &&
	    X509_gmtime_adj(X509_getm_notAfter(certificate), days * DAY) &&
	    X509_set_pubkey(certificate, key) == 1 &&
	    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0) ==
	            1 &&
	    X509_set_issuer_name(certificate, issuer ? X509_get_subject_name(issuer) : subject) == 1)
		return certificate;
	X509_free(certificate);
	return NULL;
}

/* An authority that can sign for this service's names only: whoever steals its key gains nothing elsewhere.
 */
static int make_authority(const struct tls_authority *paths, const char *domain, struct error *err)
{
	cleanup_key EVP_PKEY *key = EVP_EC_gen("P-256");
	cleanup_certificate X509 *ca = NULL;
	char host[64] = "";
	char name[160];
	char names[512];

	(void)gethostname(host, sizeof(host) - 1);
	(void)snprintf(name, sizeof(name), "Atoll local authority (%.40s)", host[0] ? host : "this machine");
	(void)snprintf(names, sizeof(names),
	               "critical,permitted;DNS:%s,permitted;DNS:localhost,"
	               "permitted;IP:127.0.0.1/255.255.255.255,"
	               "permitted;IP:::1/ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	               domain);
	ca = key ? begin_certificate(key, NULL, name, CA_DAYS) : NULL;
	if (!ca || !add_extension(ca, ca, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
	    !add_extension(ca, ca, NID_key_usage, "critical,keyCertSign,cRLSign") ||
	    !add_extension(ca, ca, NID_subject_key_identifier, "hash") ||
	    !add_extension(ca, ca, NID_name_constraints, names) || X509_sign(ca, key, EVP_sha256()) == 0)
		return fail(err, "make a certificate authority");
	/* The key first: a certificate without it would be of no use, and is what says that both are there.
	 */
	if (save_key(key, paths->ca_key, err) < 0)
		return -EIO;
	return save_chain(ca, NULL, paths->ca, err);
}

static int make_server(const struct tls_authority *paths, X509 *ca, EVP_PKEY *ca_key, const char *domain,
                       struct error *err)
{
	cleanup_key EVP_PKEY *key = EVP_EC_gen("P-256");
	cleanup_certificate X509 *server = key ? begin_certificate(key, ca, domain, SERVER_DAYS) : NULL;
	char names[512];

	(void)snprintf(names, sizeof(names), "DNS:*.%s,DNS:%s,DNS:localhost,IP:127.0.0.1,IP:::1", domain,
	               domain);
	if (!server || !add_extension(server, ca, NID_basic_constraints, "critical,CA:FALSE") ||
	    !add_extension(server, ca, NID_key_usage, "critical,digitalSignature") ||
	    !add_extension(server, ca, NID_ext_key_usage, "serverAuth") ||
	    !add_extension(server, ca, NID_subject_key_identifier, "hash") ||
	    !add_extension(server, ca, NID_authority_key_identifier, "keyid:always") ||
	    !add_extension(server, ca, NID_subject_alt_name, names) ||
	    X509_sign(server, ca_key, EVP_sha256()) == 0)
		return fail(err, "make a server certificate");
	if (save_key(key, paths->key, err) < 0)
		return -EIO;
	return save_chain(server, ca, paths->certificate, err);
}

/* Ours, for this domain, with its key, and not near its end. */
static bool server_is_good(const struct tls_authority *paths, X509 *ca, EVP_PKEY *ca_key, const char *domain)
{
	cleanup_certificate X509 *server = load_certificate(paths->certificate);
	cleanup_key EVP_PKEY *key = load_key(paths->key);
	time_t soon = (time_t)(time_wall_ms() / 1000) + RENEW_DAYS * DAY;
	bool good = server && key && X509_check_private_key(server, key) == 1 &&
	            X509_check_issued(ca, server) == X509_V_OK && X509_verify(server, ca_key) == 1 &&
	            X509_cmp_time(X509_get0_notAfter(server), &soon) > 0 &&
	            X509_check_host(server, domain, 0, 0, NULL) == 1;

	ERR_clear_error();
	return good;
}

int tls_authority_ensure(const char *directory, const char *domain, struct tls_authority *ret,
                         bool *ret_renewed, struct error *err)
{
	cleanup_certificate X509 *ca = NULL;
	cleanup_key EVP_PKEY *ca_key = NULL;
	int result;

	if (ret_renewed)
		*ret_renewed = false;
	if (strlen(directory) > TLS_AUTHORITY_PATH_MAX - 16 || strlen(domain) > 100)
		return error_errno(err, ENAMETOOLONG, "%s", directory);
	(void)snprintf(ret->ca, sizeof(ret->ca), "%.300s/ca.pem", directory);
	(void)snprintf(ret->ca_key, sizeof(ret->ca_key), "%.300s/ca.key", directory);
	(void)snprintf(ret->certificate, sizeof(ret->certificate), "%.300s/server.pem", directory);
	(void)snprintf(ret->key, sizeof(ret->key), "%.300s/server.key", directory);
	result = file_make_directories(directory, 0755, err);
	/* Whatever the umask: what clients are to trust is no secret, and the keys have their own modes. */
	if (result == 0 && chmod(directory, 0755) < 0)
		result = error_errno(err, errno, "%s", directory);
	if (result == 0 && access(ret->ca, F_OK) < 0)
		result = make_authority(ret, domain, err);
	if (result < 0)
		return result;
	ca = load_certificate(ret->ca);
	ca_key = load_key(ret->ca_key);
	if (!ca || !ca_key || X509_check_private_key(ca, ca_key) != 1) {
		ERR_clear_error();
		return error_set(
		        err, EINVAL,
		        "%s and %s cannot be read, or do not belong together; without both of them a "
		        "new authority is made",
		        ret->ca, ret->ca_key);
	}
	if (server_is_good(ret, ca, ca_key, domain))
		return 0;
	if (ret_renewed)
		*ret_renewed = true;
	return make_server(ret, ca, ca_key, domain, err);
}
